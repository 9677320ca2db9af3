"""The augmentation family, for the host (TensorFlow) and for the device (JAX).

`family` holds what the two have in common. `tf_random`, `tf_crops` and `tf_ops` run in the input pipeline; `jax_crops` and
`jax_ops` run inside the jitted step.
"""
