"""Bytes on disk to uint8 batches of views. Knows TensorFlow, knows no Flax."""

import os

# TensorFlow reads data here and nothing else; what it says of itself when it is loaded tells a user of this project
# nothing, and part of it heeds no setting. Errors are exceptions and are not lost.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
_stderr, _null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_null, 2)
try:
    import tensorflow as _tf
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_null)

# JAX owns the accelerators.
for _kind in ("GPU", "TPU"):
    _tf.config.set_visible_devices([], _kind)
