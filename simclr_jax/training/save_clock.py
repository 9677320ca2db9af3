"""When a checkpoint is due by time."""

import time

import jax

from simclr_jax.runtime import distributed


class SaveClock:
    """Says when a checkpoint is due by time.

    Args:
      minutes: between two checkpoints; 0: none is due by time.
    """

    def __init__(self, minutes: float):
        self._seconds, self._saved_at = 60 * minutes, time.monotonic()

    def is_due(self, *, agree: bool) -> bool:
        """Whether a checkpoint is due. Several processes ask process 0, but only where `agree`, since that takes time."""
        if not self._seconds or (jax.process_count() > 1 and not agree):
            return False
        return distributed.decide(time.monotonic() - self._saved_at > self._seconds)

    def saved(self) -> None:
        """Start to count again."""
        self._saved_at = time.monotonic()
