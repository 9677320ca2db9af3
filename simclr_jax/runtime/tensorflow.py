"""The only place that imports TensorFlow: `from simclr_jax.runtime.tensorflow import tf`, or `tfds`.

TensorFlow reads data and nothing else. It is imported when something of it is first used, which takes seconds; a run on data in
device memory can do without. Its start-up messages are silenced, because they say nothing to a user of this project, and the
accelerators are hidden from it, because JAX owns them. Its errors are exceptions and stay visible.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING
from typing import Any

from simclr_jax.errors import UserError
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


MISSING = (
    "TensorFlow, which this needs to read its images, is not installed: pip install tensorflow-cpu, or tensorflow where there "
    "is no such package. Without it these run, on files or .npz arrays of this machine: pretraining on small images of one "
    "size with --config.data.resident=true, knn, linear probes by L-BFGS, embed and predict."
)


@functools.cache
def _imported() -> Any:
    try:
        with _silent(), _without_keras():
            tensorflow = importlib.import_module("tensorflow")
    except ModuleNotFoundError:
        raise UserError(MISSING) from None
    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)
    return tensorflow


class _WhenUsed:
    """TensorFlow, imported when its first attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_imported(), name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _WhenUsed()


def is_installed() -> bool:
    """Whether TensorFlow can be imported, without importing it."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"] is not None
    return importlib.util.find_spec("tensorflow") is not None


def check_installed() -> None:
    """Raises a UserError where TensorFlow cannot be imported."""
    if not is_installed():
        raise UserError(MISSING)


def without_autograph(function: Callable) -> Callable:
    """For a function that builds data sets.

    AutoGraph turns `if` and `for` over tensors into TensorFlow's; the functions here have none, and converting them takes
    seconds at each start.
    """
    return tf.autograph.experimental.do_not_convert(function)


def load_saved_model(folder: str) -> Any:
    """`tf.saved_model.load` without its line for every operation whose gradient was not saved."""
    with quiet.errors_only():
        return tf.saved_model.load(folder)


def __getattr__(name: str) -> Any:
    """`tfds` (TensorFlow Datasets), imported when it is first asked for: it takes a second."""
    if name == "tfds":
        check_installed()
        return importlib.import_module("tensorflow_datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
