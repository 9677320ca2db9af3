"""Convolutions of oneDNN inside JAX programs on a CPU, where its package `onednn-cpu-gomp` is installed."""
