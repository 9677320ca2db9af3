"""The only place that imports TensorFlow: `from simclr_jax.runtime.tensorflow import tf`, or `tfds`.

TensorFlow reads data and nothing else. Here its start-up messages are silenced, because they say nothing to a user of
this project, and the accelerators are hidden from it, because JAX owns them. Its errors are exceptions and stay visible.
"""

from collections.abc import Iterator
import contextlib
import importlib
import os
import sys
from typing import Any

from simclr_jax.runtime import quiet

# 3 hides its log lines of every level. At the default, each unreadable image would print several.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches standard error: some libraries write to its file descriptor before any setting is read."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """TensorFlow imports Keras at its end, and goes on where that fails. It takes a third of the time, for nothing here."""
    if "keras" in sys.modules:
        yield
        return
    sys.modules["keras"] = None  # type: ignore[assignment]  # so Python marks a module that must not be imported
    try:
        yield
    finally:
        del sys.modules["keras"]


with _silent(), _without_keras():
    import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)


# For a function that builds data sets. AutoGraph turns `if` and `for` over tensors into TensorFlow's; the functions here
# have none, and converting them takes seconds at each start.
without_autograph = tf.autograph.experimental.do_not_convert


def load_saved_model(folder: str) -> Any:
    """`tf.saved_model.load` without its line for every operation whose gradient was not saved."""
    with quiet.errors_only():
        return tf.saved_model.load(folder)


def __getattr__(name: str) -> Any:
    """`tfds` (TensorFlow Datasets), imported when it is first asked for: it takes a second."""
    if name == "tfds":
        return importlib.import_module("tensorflow_datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
