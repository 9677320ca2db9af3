"""The one training loop."""

from collections.abc import Iterator
import math
import time

import jax
from jax.sharding import Mesh
import numpy as np

from simclr_jax import parallel
from simclr_jax.data.pipeline import BadImages
from simclr_jax.errors import NonFiniteLoss
from simclr_jax.errors import Preempted
from simclr_jax.training.checkpoint import Checkpoints
from simclr_jax.training.metrics import MetricsWriter
from simclr_jax.training.metrics import Progress
from simclr_jax.training.state import TrainState
from simclr_jax.training.steps import StepFn


def fit(
    state: TrainState,
    step_fn: StepFn,
    batches: Iterator[dict[str, np.ndarray]],
    *,
    start_step: int,
    total_steps: int,
    batch_size: int,
    mesh: Mesh,
    log_every: int,
    checkpoint_every: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    bad_images: BadImages,
    preempted: parallel.Preemption,
    name: str,
) -> TrainState:
    """Runs `step_fn` from `start_step` to `total_steps`.

    Nothing is fetched from the device between logging steps, and at most two steps are in flight.

    Args:
      state, step_fn: see `training.steps`; the state is donated.
      batches: this process's batches, the first one that of `start_step`.
      batch_size: global, for the images per second.
      log_every, checkpoint_every: in steps; the last step is logged and saved in any case.
      checkpoints: where to save.
      preempted: polled after every step.
      name: of the run, for the progress bar.

    Raises:
      NonFiniteLoss: names the first step whose loss or gradient was not finite. That step is not saved.
      Preempted: after the state was saved.
    """
    progress = Progress(name, start_step, total_steps, batch_size)
    pending = []  # metrics of the steps since the last fetch, still on the device
    last_log, last_time, data_seconds = start_step, time.monotonic(), 0.0
    try:
        for done in range(start_step + 1, total_steps + 1):
            before = time.monotonic()
            batch = next(batches)
            data_seconds += time.monotonic() - before
            inputs = {key: batch[key] for key in ("views", "label")}
            state, metrics = step_fn(state, parallel.to_global(inputs, mesh))
            pending.append(metrics)
            if len(pending) > 2:  # or the host runs ahead and fills the device with batches
                pending[-3]["loss"].block_until_ready()

            stop = preempted()
            logging_step = done % log_every == 0 or done == total_steps
            saving_step = done % checkpoint_every == 0 or done == total_steps or stop
            if logging_step or saving_step:
                history = jax.device_get(pending)
                pending = []
                _check_finite(history, done, checkpoints)
            if logging_step:
                now = time.monotonic()
                rates = {
                    "images_per_second": (done - last_log) * batch_size / (now - last_time),
                    "data_wait_fraction": data_seconds / (now - last_time),
                    "bad_images": bad_images.count,
                }
                last_log, last_time, data_seconds = done, now, 0.0
                writer.write(done, {key: float(value) for key, value in history[-1].items()} | rates)
            if saving_step:
                checkpoints.save(done, state)
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
