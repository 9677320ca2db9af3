"""Where the time of the training steps goes."""

from collections.abc import Iterator
import contextlib
import logging
import time

log = logging.getLogger("simclr_jax")

# Above this share of the time spent waiting for data, the run warns the user.
INPUT_BOUND = 0.3


class Timing:
    """Measures the steps since the last report.

    Args:
      step: the step that the run starts from.
    """

    def __init__(self, step: int):
        self._step, self._time = step, time.monotonic()
        self._seconds = {"data_wait": 0.0, "checkpoint": 0.0, "evaluation": 0.0}
        self._reports, self._warned = 0, False

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Counts the time inside the `with` block as "data_wait", "checkpoint" or "evaluation"."""
        before = time.monotonic()
        yield
        self._seconds[part] += time.monotonic() - before

    def report(self, step: int, batch_size: int) -> dict[str, float]:
        """Images per second and milliseconds per step, in total and of each part, since the last report."""
        now, steps = time.monotonic(), step - self._step
        seconds = now - self._time
        waiting = self._seconds["data_wait"] / seconds
        parts = {f"ms_{part}": 1000 * spent / steps for part, spent in self._seconds.items()}
        whole = 1000 * seconds / steps
        self._reports += 1
        if waiting > INPUT_BOUND and self._reports > 1 and not self._warned:  # the first one fills buffers and compiles
            self._warned = True
            log.warning(
                "Input-bound: %.0f %% of the time was spent waiting for data (%.0f of %.0f ms a step). More CPU cores, a "
                "faster disk or smaller stored images would speed this run up; in pretraining also "
                "--config.augment.where=device, or for small images of one size --config.data.resident.",
                100 * waiting,
                parts["ms_data_wait"],
                whole,
            )
        self._step, self._time = step, now
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return {
            "images_per_second": steps * batch_size / seconds,
            "data_wait_fraction": waiting,
            "ms_step": whole - sum(parts.values()),
            **parts,
        }
