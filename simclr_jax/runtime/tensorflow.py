"""The only place that imports TensorFlow: `from simclr_jax.runtime.tensorflow import tf`, or `tfds`.

TensorFlow reads data and nothing else. Here its start-up messages are silenced, because they say nothing to a user of
this project, and the accelerators are hidden from it, because JAX owns them. Its errors are exceptions and stay visible.
"""

import importlib
import os
from typing import Any

# 3 hides its log lines of every level. At the default, each unreadable image would print several.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Some libraries write to the file descriptor before any setting is read.
_stderr, _null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_null, 2)
try:
    import tensorflow as tf
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_null)

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)


def load_saved_model(folder: str) -> Any:
    """`tf.saved_model.load` without its line for every operation whose gradient was not saved."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return tf.saved_model.load(folder)
    finally:
        logging.set_verbosity(level)


def __getattr__(name: str) -> Any:
    """`tfds` (TensorFlow Datasets), imported when it is first asked for: it takes a second."""
    if name == "tfds":
        return importlib.import_module("tensorflow_datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
