"""Convolutions of oneDNN inside JAX programs on a CPU, where it is installed: pip install 'simclr_jax[cpu]'."""
