"""Send metrics and pictures to experiment trackers, Weights & Biases and MLflow, through their own clients.

A tracker must not hold up or end a training: everything after its start happens in a separate thread, and a failure is a
warning.
"""

from collections.abc import Callable
from collections.abc import Sequence
import json
import logging
import pathlib
import queue
import re
import tempfile
import threading
import time
from typing import Any
from typing import Protocol
import uuid

from etils import epath

from simclr_jax.errors import EXIT_PREEMPTED
from simclr_jax.errors import UserError
from simclr_jax.runtime import extras
from simclr_jax.runtime import files
from simclr_jax.runtime.heartbeat import working

log = logging.getLogger("simclr_jax")

PROJECT = "simclr_jax"
# In the workdir: the tracker's id of this run, by name of the tracker.
FILE = "trackers.json"
# At the end of a run, how long to wait for what is not sent yet.
FINISH_SECONDS = 30.0


class Tracker(Protocol):
    """One tracker, for one run."""

    def start(self, name: str, config: dict[str, Any], known: str | None, folder: epath.Path) -> str:
        """Start a run, or continue the one with the id `known`; returns its id."""

    def log(self, step: int, metrics: dict[str, float], part: str) -> None:
        """Metrics of a step. `part` is empty, or names one of several trainings of the run, such as "draw_0"."""

    def picture(self, name: str, path: str, step: int) -> None:
        """A PNG file."""

    def finish(self, results: dict[str, float], code: int) -> None:
        """The end, with final results and the exit code."""


class Wandb:
    """Weights & Biases. Its environment variables (WANDB_MODE=offline, WANDB_PROJECT, ...) apply."""

    def __init__(self):
        self._client = extras.load("wandb", "--tracker=wandb needs wandb, which is not installed", "wandb")

    def start(self, name: str, config: dict[str, Any], known: str | None, folder: epath.Path) -> str:
        local = None if "://" in str(folder) else str(folder)
        settings = self._client.Settings(console="off")
        self._run = self._client.init(
            project=self._client.Settings().project or PROJECT,
            name=name,
            id=known or uuid.uuid4().hex[:12],
            resume="allow",
            config=None if known else config,
            dir=local,
            settings=settings,
        )
        self._parts: set[str] = set()
        return self._run.id

    def log(self, step: int, metrics: dict[str, float], part: str) -> None:
        prefix = f"{part}/" if part else ""
        if part not in self._parts:  # a run that continues writes some steps again, which W&B's own steps cannot
            self._parts.add(part)
            self._run.define_metric(f"{prefix}step")
            self._run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")
        self._run.log({f"{prefix}{key}": value for key, value in ({"step": step} | metrics).items()})

    def picture(self, name: str, path: str, step: int) -> None:
        self._run.log({name: self._client.Image(path), "step": step})

    def finish(self, results: dict[str, float], code: int) -> None:
        self._run.summary.update(results)
        self._run.finish(exit_code=code)


class Mlflow:
    """MLflow. Its environment variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...) apply."""

    def __init__(self):
        missing = "--tracker=mlflow needs mlflow, which is not installed"
        self._tracking = extras.load("mlflow.tracking", missing, "mlflow")
        self._entities = extras.load("mlflow.entities", missing, "mlflow")
        self._environment = extras.load("mlflow.environment_variables", missing, "mlflow")

    def start(self, name: str, config: dict[str, Any], known: str | None, folder: epath.Path) -> str:
        del folder
        self._client = self._tracking.MlflowClient()
        if known:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return known
        experiment = self._environment.MLFLOW_EXPERIMENT_NAME.get() or PROJECT
        there = self._client.get_experiment_by_name(experiment)
        place = there.experiment_id if there else self._client.create_experiment(experiment)
        self._id = self._client.create_run(place, run_name=name).info.run_id
        params = [self._entities.Param(key, str(value)) for key, value in config.items()]
        for start in range(0, len(params), 100):  # MLflow takes no more at once
            self._client.log_batch(self._id, params=params[start : start + 100])
        return self._id

    def log(self, step: int, metrics: dict[str, float], part: str) -> None:
        now, prefix = int(1000 * time.time()), f"{part}/" if part else ""
        # MLflow refuses other characters.
        names = {key: re.sub(r"[^\w\-./ ]", "_", prefix + key) for key in metrics}
        self._client.log_batch(
            self._id, metrics=[self._entities.Metric(names[key], metrics[key], now, step) for key in metrics]
        )

    def picture(self, name: str, path: str, step: int) -> None:
        del name, step
        self._client.log_artifact(self._id, path)

    def finish(self, results: dict[str, float], code: int) -> None:
        if results:
            self.log(int(results.get("step", 0)), results, "results")
        status = {0: "FINISHED", EXIT_PREEMPTED: "KILLED"}.get(code, "FAILED")
        self._client.set_terminated(self._id, status)


TRACKERS: dict[str, Callable[[], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def parse_names(values: Sequence[str]) -> list[str]:
    """The names in the values of `--tracker`, each of which may have several, separated by commas.

    Raises:
      UserError: for an unknown one.
    """
    names = [name for value in values for name in value.split(",") if name]
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--tracker={name}: should be {' or '.join(TRACKERS)}.")
    return list(dict.fromkeys(names))


class Trackers:
    """The trackers of one command, perhaps none. Only process 0 has any.

    Args:
      names: of the trackers.

    Raises:
      UserError: where the client of one is not installed.
    """

    def __init__(self, names: Sequence[str] = ()):
        self._trackers = {name: TRACKERS[name]() for name in names}
        self._workdir: epath.Path | None = None  # set by `start`
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)

    def start(self, workdir: epath.Path, config: dict[str, Any]) -> None:
        """Start the run of this workdir, or continue it, under the name of the workdir. Further calls do nothing.

        Args:
          workdir: of the command.
          config: flat, such as {"optimizer.name": "lars"}.

        Raises:
          UserError: where a new run cannot start, such as for want of a login. Where one continues, this is a warning.
        """
        if self._workdir is not None or not self._trackers:
            return
        self._workdir = workdir
        file = workdir / FILE
        known = files.read_json(file, "delete it; the trackers then begin a new run") if file.exists() else {}
        for name, tracker in list(self._trackers.items()):
            try:
                known[name] = tracker.start(epath.Path(workdir).name, config, known.get(name), workdir)
            except Exception as error:  # of many types
                if name not in known:
                    raise UserError(f"--tracker={name}: the run cannot start there: {_line(error)}") from error
                self._give_up(name, error)
        file.write_text(json.dumps(known) + "\n")
        self._thread.start()

    def log(self, folder: epath.Path, step: int, metrics: dict[str, float]) -> None:
        """Send the metrics of a step. `folder` is the workdir, or that of one of its trainings."""
        if self._workdir is not None:
            # The same folder may be written in two ways, but the part below the workdir is there in both.
            part = str(folder).removeprefix(str(self._workdir)).strip("/")
            self._send(lambda tracker: tracker.log(step, metrics, part))

    def picture(self, name: str, content: bytes, step: int) -> None:
        """Send a PNG file with this content."""

        def send(tracker: Tracker) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / f"{name}.png"
                path.write_bytes(content)
                tracker.picture(name, str(path), step)

        if self._workdir is not None:
            self._send(send)

    def finish(self, results: Any, code: int) -> None:
        """End the run, and wait for what is not sent yet, but not long.

        Args:
          results: of the command; its numbers are sent.
          code: the exit code.
        """
        if self._workdir is None or not self._thread.is_alive():
            return
        values = results if isinstance(results, dict) else {}
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._send(lambda tracker: tracker.finish(numbers, code))
        self._waiting.put(None)
        with working(f"sending the rest to {', '.join(self._trackers)}"):
            self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            log.warning("%s: not everything was sent within %.0f s.", ", ".join(self._trackers), FINISH_SECONDS)

    def _send(self, call: Callable[[Tracker], None]) -> None:
        def each() -> None:
            for name, tracker in list(self._trackers.items()):
                try:
                    call(tracker)
                except Exception as error:  # of many types; the training goes on
                    self._give_up(name, error)

        self._waiting.put(each)

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            call()

    def _give_up(self, name: str, error: Exception) -> None:
        log.warning("--tracker=%s failed and is left out from here on; the run goes on. (%s)", name, _line(error))
        del self._trackers[name]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
