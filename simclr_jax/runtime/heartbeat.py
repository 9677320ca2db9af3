"""Say what takes long while it does, so that no run is silent for more than 20 seconds."""

from collections.abc import Iterator
import contextlib
import logging
import threading
import time

log = logging.getLogger("simclr_jax")

# Seconds until the first line, and between two lines.
EVERY_SECONDS = 20.0


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Log "WHAT ... 20 s", then "WHAT ... 40 s", for as long as the `with` block runs. A short block logs nothing.

    Args:
      what: such as "compiling the step".
    """
    began, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(EVERY_SECONDS):
            log.info("%s ... %.0f s", what, time.monotonic() - began)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
