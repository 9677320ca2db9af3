"""Say what takes long while it does, so that no run is silent for more than 20 seconds."""

from collections.abc import Iterator
import contextlib
import logging
import threading
import time

log = logging.getLogger("simclr_jax")

# Seconds until the first line, and between two lines.
EVERY_SECONDS = 20.0


class Work:
    """Work that takes long.

    Args:
      what: such as "compiling the step".
      total: how many items it has; None where they cannot be counted.
      unit: of the items.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = ""):
        self._what, self._total, self._unit = what, total, unit
        self._done, self._began = 0, time.monotonic()

    def did(self, number: int = 1) -> None:
        """Count `number` more items as done."""
        self._done += number

    def line(self) -> str:
        """What, how much is done, and for how long: "probing: 12 of 45 l2 values, 40 s"."""
        seconds = f"{time.monotonic() - self._began:.0f} s"
        if self._total is None:
            return f"{self._what} ... {seconds}"
        return f"{self._what}: {self._done} of {self._total} {self._unit}, {seconds}"


@contextlib.contextmanager
def working(what: str, total: int | None = None, unit: str = "") -> Iterator[Work]:
    """Log a line every 20 s for as long as the `with` block runs. A shorter block logs nothing.

    Args:
      what, total, unit: see `Work`. The block calls `did` of what it gets for each item.
    """
    work, ended = Work(what, total, unit), threading.Event()

    def report() -> None:
        while not ended.wait(EVERY_SECONDS):
            log.info(work.line())

    thread = threading.Thread(target=report, name=what, daemon=True)
    thread.start()
    try:
        yield work
    finally:
        ended.set()
        thread.join()
