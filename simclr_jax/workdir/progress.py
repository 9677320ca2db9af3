"""The progress of a training run on the terminal or in a log."""

import logging
import sys
import time

from tqdm.auto import tqdm

from simclr_jax.runtime import distributed

log = logging.getLogger("simclr_jax")

# Seconds between two lines of progress where there is no terminal.
LINE_EVERY_SECONDS = 20.0
# After this many steps the run says how long it will take, unless that is less than this many seconds.
STEPS_OF_ESTIMATE, SHORT_RUN = 10, 60.0


class Progress:
    """Show loss, images/s and the time left: as a bar on a terminal, elsewhere as a line every 20 s, with the newest loss.

    Args:
      name: of what is running.
      step: the number of steps already done.
      total_steps: the number of steps at the end.
      images_per_step: the size of the global batch.
    """

    def __init__(self, name: str, step: int, total_steps: int, images_per_step: int):
        self._name, self._total, self._images_per_step = name, total_steps, images_per_step
        self._start_step, self._step = step, step
        self._line_time = time.monotonic()
        self._rate_time: float | None = None  # when the first step was done
        self._loss = ""
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            desc=name,
            unit="step",
            disable=not sys.stderr.isatty() or not distributed.is_primary(),
        )

    def update(self, step: int, loss: float | None = None) -> None:
        """Show that `step` steps are done. `loss` is None where fetching it would make the host wait for the device."""
        self._bar.update(step - self._step)
        self._step = step
        now = time.monotonic()
        if self._rate_time is None:  # the first step also compiles
            self._rate_time = self._line_time = now
            return
        if loss is not None:
            self._loss = f", loss {loss:.4f}"
        rate = (step - self._start_step - 1) * self._images_per_step / max(now - self._rate_time, 1e-9)
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} images/s", refresh=False)
        seconds_left = (self._total - step) * self._images_per_step / max(rate, 1e-9)
        if step - self._start_step == STEPS_OF_ESTIMATE + 1 and seconds_left > SHORT_RUN:
            log.info("%s: about %s at %.0f images/s.", self._name, tqdm.format_interval(seconds_left), rate)
        if self._bar.disable and (now - self._line_time > LINE_EVERY_SECONDS or step == self._total):
            self._line_time = now
            left = tqdm.format_interval(seconds_left)
            where = f"{self._name}: step {step} of {self._total}{self._loss}"
            log.info("%s, %.0f images/s, %s left", where, rate, left)

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ImageProgress:
    """Show how many images are done, images/s and the time left: as a bar on a terminal, elsewhere as a line every 20 s.

    Args:
      name: of what is running.
      done: the number of images already done.
      total: the number of images at the end.
    """

    def __init__(self, name: str, done: int, total: int):
        self._name, self._first, self._done, self._total = name, done, done, total
        self._start_time = self._line_time = time.monotonic()
        disable = not sys.stderr.isatty() or not distributed.is_primary()
        self._bar = tqdm(total=total, initial=done, desc=name, unit="image", unit_scale=True, disable=disable)

    def update(self, number: int) -> None:
        """Show that `number` more images are done."""
        self._bar.update(number)
        self._done += number
        now = time.monotonic()
        if self._bar.disable and now - self._line_time > LINE_EVERY_SECONDS:
            self._line_time = now
            rate = (self._done - self._first) / max(now - self._start_time, 1e-9)
            left = tqdm.format_interval((self._total - self._done) / max(rate, 1e-9))
            log.info("%s: %d of %d images, %.0f images/s, %s left", self._name, self._done, self._total, rate, left)

    def __enter__(self) -> "ImageProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
