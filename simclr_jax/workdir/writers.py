"""Where numbers go: `metrics.jsonl`, TensorBoard summaries, `config.json`, `results.json`, progress on the terminal.

All of it is written by the primary process; on the others these functions do nothing.
"""

import json
import logging
import math
import sys
import time
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter
from tqdm.auto import tqdm

from simclr_jax.runtime import distributed
from simclr_jax.workdir import files

log = logging.getLogger("simclr_jax")

# Without a terminal, seconds between two lines of progress.
LINE_EVERY_SECONDS = 20.0


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files.

    Args:
      workdir: of the run.
      step: of the checkpoint that the run continues from. Lines behind it, which the continued run writes again, are
        taken out, so that every step stands there once.
    """

    def __init__(self, workdir: epath.Path, step: int = 0):
        self.workdir = workdir
        self._active = distributed.is_primary()
        if not self._active:
            return
        path = workdir / "metrics.jsonl"
        lines = read_metrics(path) if path.exists() else []
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))
        self._file = files.Appending(path)
        files.let_tensorboardx_write(workdir)
        self._summaries = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line `{"step": ..., ...}`, at once on disk (in a bucket: within a minute, and before a checkpoint)."""
        if not self._active:
            return
        self._file.write((json.dumps({"step": step, **metrics}) + "\n").encode())
        self._file.flush()
        for name, value in metrics.items():
            self._summaries.add_scalar(name, value, step)
        self._summaries.flush()

    def flush(self) -> None:
        """Puts on disk whatever is not there yet."""
        if self._active:
            self._file.sync()

    def close(self) -> None:
        if not self._active:
            return
        self._file.close()
        self._summaries.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that was cut off in writing is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write_atomically(path: epath.Path, text: str) -> None:
    """Writes a small file so that it is never seen half-written."""
    if distributed.is_primary():
        files.write_atomically(path, text.encode())


def write_results(workdir: epath.Path, results: dict[str, Any]) -> None:
    """`results.json`; numbers that are not finite become null, which JSON can hold."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_atomically(workdir / "results.json", json.dumps(clean(results), indent=2) + "\n")


class Progress:
    """A bar with loss, images/s and time left on a terminal; elsewhere one line every so often.

    Args:
      name: of what is running.
      step, total_steps: where it begins and ends.
      images_per_step: of the global batch.
    """

    def __init__(self, name: str, step: int, total_steps: int, images_per_step: int):
        self._name, self._total, self._images_per_step = name, total_steps, images_per_step
        self._start_step, self._step = step, step
        self._start_time = self._line_time = time.monotonic()
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            desc=name,
            unit="step",
            disable=not sys.stderr.isatty() or not distributed.is_primary(),
        )

    def update(self, step: int, loss: float | None = None) -> None:
        """`loss` is None on steps that are not logged, where it would have to be fetched from the device."""
        self._bar.update(step - self._step)
        self._step = step
        if loss is None:
            return
        now = time.monotonic()
        rate = (step - self._start_step) * self._images_per_step / max(now - self._start_time, 1e-9)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} images/s", refresh=False)
        if self._bar.disable and (now - self._line_time > LINE_EVERY_SECONDS or step == self._total):
            self._line_time = now
            left = (self._total - step) * self._images_per_step / rate
            log.info(
                "%s: step %d of %d, loss %.4f, %.0f images/s, %s left",
                self._name,
                step,
                self._total,
                loss,
                rate,
                tqdm.format_interval(left),
            )

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
