"""The one training loop."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import math
import time

import jax
import numpy as np

from simclr_jax.data.pipeline import BadImages
from simclr_jax.errors import NonFiniteLoss
from simclr_jax.errors import Preempted
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training.checkpoint import Checkpoints
from simclr_jax.training.inputs import Batch
from simclr_jax.training.state import TrainState
from simclr_jax.training.steps import StepFn
from simclr_jax.workdir.writers import MetricsWriter
from simclr_jax.workdir.writers import Progress

log = logging.getLogger("simclr_jax")

# Beyond this share of the time spent waiting for data, the user is told.
INPUT_BOUND = 0.3


class Timing:
    """Where the time of the steps since the last report went."""

    def __init__(self, step: int):
        self._step, self._time = step, time.monotonic()
        self._seconds = {"data_wait": 0.0, "checkpoint": 0.0, "evaluation": 0.0}
        self._reports, self._warned = 0, False

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        before = time.monotonic()
        yield
        self._seconds[part] += time.monotonic() - before

    def report(self, step: int, batch_size: int) -> dict[str, float]:
        """Images per second and milliseconds per step, all in all and of each part; begins anew."""
        now, steps = time.monotonic(), step - self._step
        seconds = now - self._time
        waiting = self._seconds["data_wait"] / seconds
        parts = {f"ms_{part}": 1000 * spent / steps for part, spent in self._seconds.items()}
        whole = 1000 * seconds / steps
        self._reports += 1
        if waiting > INPUT_BOUND and self._reports > 1 and not self._warned:  # the first one fills buffers and compiles
            self._warned = True
            log.warning(
                "Input-bound: %.0f %% of the time went into waiting for data (%.0f of %.0f ms a step). More CPU cores, a "
                "faster disk or smaller stored images would speed this run up.",
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


def fit(
    state: TrainState,
    step_fn: StepFn,
    batches: Iterator[Batch],
    *,
    start_step: int,
    total_steps: int,
    batch_size: int,
    log_every: int,
    checkpoint_every: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    bad_images: BadImages | None,
    monitor: RunMonitor,
    name: str,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> TrainState:
    """Runs `step_fn` from `start_step` to `total_steps`.

    Nothing is fetched from the device between logging steps, and at most two steps are in flight.

    Args:
      state, step_fn: see `training.steps`; the state is donated.
      batches: global batches, the first one that of `start_step`.
      batch_size: global, for the images per second.
      log_every, checkpoint_every: in steps; the last step is logged and saved in any case.
      checkpoints: where to save.
      bad_images: what could not be read so far; None where nothing is read any more.
      monitor: polled after every step.
      name: of the run, for the progress bar.
      evaluate: its metrics are logged with those of every `evaluate_every`-th step (0: never), but for the last.

    Raises:
      NonFiniteLoss: names the first step whose loss or gradient was not finite. That step is not saved.
      Preempted: after the state was saved.
    """
    progress = Progress(name, start_step, total_steps, batch_size)
    pending = []  # metrics of the steps since the last fetch, still on the device
    timing = Timing(start_step)
    try:
        for done in range(start_step + 1, total_steps + 1):
            with timing.of("data_wait"):
                batch = next(batches)  # on its way to the device while the step before is running
            monitor.before_step(done, writer.workdir)
            state, metrics = step_fn(state, batch)
            pending.append(metrics)
            if len(pending) > 2:  # or the host runs ahead and fills the device with batches
                pending[-3]["loss"].block_until_ready()

            monitor.after_step(done, metrics["loss"], writer.workdir)
            stop = monitor.poll()
            last = done == total_steps
            evaluating_step = (
                evaluate is not None and evaluate_every and done % evaluate_every == 0 and not (last or stop)
            )
            logging_step = done % log_every == 0 or last or evaluating_step
            saving_step = done % checkpoint_every == 0 or last or evaluating_step or stop
            if logging_step or saving_step:
                history = jax.device_get(pending)
                pending = []
                _check_finite(history, done, checkpoints)
            if saving_step:
                writer.flush()
                with timing.of("checkpoint"):
                    checkpoints.save(done, state)
            values = {key: float(value) for key, value in history[-1].items()} if logging_step else {}
            if evaluating_step:
                with timing.of("evaluation"):
                    values |= {f"test_{key}": value for key, value in evaluate(state).items() if key != "n"}
            if logging_step:
                writer.write(
                    done,
                    values | timing.report(done, batch_size) | {"bad_images": bad_images.count if bad_images else 0},
                )
            progress.update(done, float(history[-1]["loss"]) if logging_step else None)
            if stop:
                raise Preempted(
                    f"asked to stop: saved step {done} of {total_steps}; the same command continues from there."
                )
    finally:
        progress.close()
        checkpoints.wait()  # whatever ends the run, a save that has begun is finished
    return state


def _check_finite(history: list[dict[str, np.ndarray]], done: int, checkpoints: Checkpoints) -> None:
    for step, metrics in enumerate(history, start=done - len(history) + 1):
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                latest = checkpoints.latest()
                kept = f"the checkpoint of step {latest} is kept" if latest else "there is no checkpoint yet"
                raise NonFiniteLoss(
                    f"{name} is {metrics[name]} in step {step}; {kept}. "
                    "Lower config.optimizer.learning_rate, warm up for longer, or raise config.loss.temperature."
                )
