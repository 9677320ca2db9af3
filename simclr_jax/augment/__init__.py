"""The augmentation family, for the host (TensorFlow) and for the device (JAX).

`family` is the table of operations that both share. `tf_random`, `tf_crops` and `tf_ops` run in the input pipeline; `jax_crops`
and `jax_ops` run inside the jitted step.
"""
