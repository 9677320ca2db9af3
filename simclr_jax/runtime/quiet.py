"""Hide what a library says that means nothing to a user of this project."""

from collections.abc import Iterator
import contextlib

from absl import logging


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """absl, which Orbax and TensorFlow log by, shows errors only for as long as the `with` block runs."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
