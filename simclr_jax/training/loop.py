"""The one training loop."""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
import contextlib
import dataclasses
import math
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data.bad_images import BadImages
from simclr_jax.errors import NonFiniteLoss
from simclr_jax.errors import Preempted
from simclr_jax.runtime import distributed
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import memory
from simclr_jax.training.checkpoint import Checkpoints
from simclr_jax.training.save_clock import SaveClock
from simclr_jax.training.state import TrainState
from simclr_jax.training.steps import StepFn
from simclr_jax.training.timing import Timing
from simclr_jax.workdir.progress import Progress
from simclr_jax.workdir.writers import MetricsWriter

# More steps in flight would fill the device with batches.
STEPS_IN_FLIGHT = 2
# Lines of metrics that every run has at least, if it has as many steps.
MIN_POINTS = 100


@dataclasses.dataclass
class TrainingRun:
    """What the loop needs to know about a training.

    Attributes:
      name: of the run, for the progress bar and the profile.
      config: `batch_size`, `data.image_size`, `log_every_steps`, `checkpoint` and perhaps `evaluate_every_steps`.
      workdir: for metrics and profile.
      state: the state to start from; its step number says where. The loop donates it.
      step_fn: see `training.steps`.
      total_steps: the last step is logged and saved in any case.
      batches: global batches, the first one that of the first step. A generator is closed at the end.
      checkpoints: where to save.
      monitor: polled after every step.
      bad_images: the images that could not be read so far; None where the run reads no images.
      evaluate: its metrics are logged with those of every `config.evaluate_every_steps`-th step, except the last.
      watch: looks at the step and the metrics of each logged step.
    """

    name: str
    config: ConfigDict
    workdir: epath.Path
    state: TrainState
    step_fn: StepFn
    total_steps: int
    batches: Iterator[Any]
    checkpoints: Checkpoints
    monitor: RunMonitor
    bad_images: BadImages | None = None
    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    watch: Callable[[int, dict[str, float]], None] = lambda step, metrics: None

    def is_evaluating(self, step: int) -> bool:
        """Whether to evaluate after this step. The last step is evaluated by the caller."""
        every = self.config.get("evaluate_every_steps", 0)
        return bool(self.evaluate and every and step % every == 0 and step != self.total_steps)

    def is_logging(self, step: int) -> bool:
        # Short runs are logged more often: every run has at least 100 points.
        every = min(self.config.log_every_steps, max(self.total_steps // MIN_POINTS, 1))
        return step % every == 0 or step == self.total_steps or self.is_evaluating(step)

    def is_saving(self, step: int) -> bool:
        return step % self.config.checkpoint.every_steps == 0 or step == self.total_steps or self.is_evaluating(step)


def fit(run: TrainingRun) -> TrainState:
    """Runs `run.step_fn` from the state's step to `run.total_steps` and returns the last state.

    Between logging steps the loop fetches nothing from the device, and an implicit transfer is an error. Metrics, saves
    and profile are complete on disk however the loop ends.

    Raises:
      UserError: where the step needs more memory than there is.
      StorageError: where the disk has no room for the checkpoints, or the workdir is gone.
      NonFiniteLoss: names the first step whose loss or gradient was not finite. That step is not saved.
      Preempted: after the state was saved.
    """
    start_step = int(run.state.step)
    if start_step < run.total_steps and distributed.is_primary():
        run.checkpoints.check_room(run.state)
    try:
        with (
            MetricsWriter(run.workdir, start_step, run.monitor.trackers) as writer,
            Progress(run.name, start_step, run.total_steps, run.config.batch_size) as progress,
            run.monitor.profile(run.workdir) as profile,
            jax.transfer_guard("disallow"),
        ):
            return _fit(run, start_step, writer, progress, profile)
    except jax.errors.JaxRuntimeError as error:
        if memory.is_out_of_memory(error):
            raise memory.ran_out(run.config, error) from error
        raise
    finally:
        if isinstance(run.batches, Generator):
            run.batches.close()  # its threads would read ahead, and take memory, while the run is tested
        run.checkpoints.wait()


def _fit(run: TrainingRun, start_step: int, writer: MetricsWriter, progress: Progress, profile) -> TrainState:
    state, batch_size = run.state, run.config.batch_size
    pending = []  # metrics of the steps since the last fetch, still on the device
    timing = Timing(start_step)
    history: list[dict[str, np.ndarray]] = []
    clock = SaveClock(run.config.checkpoint.every_minutes)
    for step in range(start_step + 1, run.total_steps + 1):
        first = step == start_step + 1
        with timing.of("data_wait"), _saying("waiting for the first batch", first):
            batch = next(run.batches)  # on its way to the device while the step before is running
        profile.before_step(step)
        with _saying("compiling the step", first):
            if first and run.monitor.memory_check:
                memory.check(run.step_fn, state, batch, run.config)
            with jax.profiler.StepTraceAnnotation(run.name, step_num=step):
                state, metrics = run.step_fn(state, batch)
        pending.append(metrics)
        if len(pending) > STEPS_IN_FLIGHT:
            pending[-1 - STEPS_IN_FLIGHT]["loss"].block_until_ready()
        profile.after_step(step, metrics["loss"])
        stop = run.monitor.poll()

        logging_step = run.is_logging(step)
        saving_step = run.is_saving(step) or stop or clock.is_due(agree=logging_step)
        loss = None
        if logging_step or saving_step:
            history = jax.device_get(pending)
            pending = []
            _check_finite(history, step, run.checkpoints)
        if logging_step:
            values = {key: float(value) for key, value in history[-1].items()}
            loss = values["loss"]
            run.watch(step, values)
            if run.is_evaluating(step) and not stop:
                with timing.of("evaluation"):
                    tested, stop = _evaluate(run, state)
                values |= tested
            values |= timing.report(step, batch_size)
            writer.write(step, values | {"bad_images": run.bad_images.count if run.bad_images else 0})
        if saving_step:
            # Before the save, so that a run that continues from it has the line of this step.
            writer.flush()
            with timing.of("checkpoint"):
                run.checkpoints.save(step, state)
            clock.saved()
        progress.update(step, loss)
        if stop:
            raise Preempted(
                f"asked to stop: saved step {step} of {run.total_steps}; the same command continues from there."
            )
    return state


def _saying(what: str, first: bool) -> contextlib.AbstractContextManager:
    """`working` in the first step of a run, which takes longer than the rest."""
    return working(what) if first else contextlib.nullcontext()


def _evaluate(run: TrainingRun, state: TrainState) -> tuple[dict[str, float], bool]:
    """Metrics of the test images, and whether the run was asked to stop meanwhile; then there are no metrics."""
    assert run.evaluate is not None  # see `is_evaluating`
    try:
        with jax.transfer_guard("allow"):  # an evaluation may compute on the host what it likes
            return {f"test_{key}": value for key, value in run.evaluate(state).items() if key != "n"}, False
    except Preempted:
        return {}, True


def _check_finite(history: list[dict[str, np.ndarray]], step: int, checkpoints: Checkpoints) -> None:
    for number, metrics in enumerate(history, start=step - len(history) + 1):
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                latest = checkpoints.latest()
                kept = f"the checkpoint of step {latest} is kept" if latest else "there is no checkpoint yet"
                raise NonFiniteLoss(
                    f"{name} is {metrics[name]} in step {number}; {kept}. "
                    "Lower config.optimizer.learning_rate, warm up for longer, or raise config.loss.temperature."
                )
