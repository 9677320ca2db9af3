"""The runs of a sweep: their commands, the checks of these commands, and the state of each run."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import sys
from typing import Any

from absl.flags import FlagValues
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime.flags import parse_run
from simclr_jax.workdir import runs as saved_runs

log = logging.getLogger("simclr_jax")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of a run.

    Attributes:
      name: of its folder in the folder of the run, and of its columns: "pretrain", or the key in "then".
      binary: module of simclr_jax.
      flags: of the binary, without --workdir.
      workdir: of the binary.
      follow_up: whether it evaluates a checkpoint that an earlier stage of the run writes.
    """

    name: str
    binary: str
    flags: tuple[str, ...]
    workdir: epath.Path
    follow_up: bool = False

    def command(self, python: str = sys.executable) -> list[str]:
        """The whole command line."""
        return [python, "-m", f"simclr_jax.{self.binary}", *self.flags, f"--workdir={self.workdir}"]

    @functools.cached_property
    def _parsed(self) -> FlagValues:
        values = FlagValues()
        parse_run(self.command()[2:], values, self.binary, check_places=False)
        return values

    @property
    def config(self) -> ConfigDict:
        """The config on the command line. The binary later fills in unset fields from the pretraining run.

        Raises:
          UserError: for any mistake in the command line, with the message of the binary.
        """
        return self._parsed["config"].value

    def _schema(self) -> ConfigDict:
        return config_lib.defaults(self.binary)

    def check(self) -> None:
        """Refuses a command line that the binary would refuse at its start, as far as this needs no data and no devices.

        Raises:
          UserError: with the flag or the field.
        """
        config = self.config
        if not config_lib.KINDS[self.binary].evaluates:
            hint = "set it in the config file or in the sweep."
            config_checks.require(config, "data.source", "data.image_size", "data.eval_crop", "model.depth", hint=hint)

    def check_places(self) -> None:
        """Refuses a checkpoint that does not exist, and a workdir that holds another run.

        Raises:
          UserError: with the folder and, for another run, the fields that differ.
        """
        pretrained = None if self.binary == "pretrain" or self.follow_up else self._parsed["pretrained"].value
        if pretrained and not epath.Path(pretrained).exists():
            raise UserError(f"--pretrained={pretrained} does not exist.")
        saved_config.refuse_another_run(
            self.workdir,
            self.disagreements(),
            "Take another --workdir, move that folder away, or let the sweep yield the field.",
        )

    def disagreements(self) -> list[str]:
        """The fields whose values differ from those in the workdir's config.json, one line for each."""
        if not (self.workdir / "config.json").exists():
            return []
        saved = self._saved_as()
        config = self.config.copy_and_resolve_references()
        saved_config.settle_as(config, saved)
        if self.binary != "pretrain":
            saved_config.inherit(config, saved)  # as the evaluation filled it in from the config of the checkpoint
            config.pretrained = saved.pretrained
            given = self._parsed["pretrained"].value
            if given and saved.pretrained and not self.follow_up:
                path = epath.Path(given).resolve()
                if path != epath.Path(saved.pretrained) and path not in epath.Path(saved.pretrained).parents:
                    config.pretrained = str(path)
        return saved_config.differences(config, saved)

    def results(self) -> dict[str, Any] | None:
        """The content of results.json; None if the stage is not done.

        With a warning also where the file is damaged, or the checkpoint that was evaluated has been replaced since.
        """
        if not (self.workdir / "config.json").exists():
            return None
        results = saved_runs.read_results(self.workdir)
        return results if results is None or self._is_of_its_encoder() else None

    def _is_of_its_encoder(self) -> bool:
        if self.binary == "pretrain":
            return True
        from simclr_jax.workdir import data_record  # imports JAX, which --help does without

        pretrained = self._saved_as().pretrained
        if not pretrained or data_record.is_of_files(data_record.read(self.workdir), epath.Path(pretrained)):
            return True
        log.warning("%s is of weights that are no longer in %s: it counts as not done.", self.workdir, pretrained)
        return False

    def _saved_as(self) -> ConfigDict:
        remedy = "move that folder away, or take another --workdir"
        return saved_config.read(self.workdir / "config.json", self._schema(), remedy)


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, which is one row of its table.

    Attributes:
      name: of its folder.
      overrides: the fields that set it apart: `{"config.loss.temperature": 0.1}`.
      stages: its commands; each needs the earlier ones.
      records: folder on this machine for the logs and the status.
      place: in the figure of the sweep, (series, x); None: it is not in the figure.
      paper: published results, by columns of the table: `{"probe.top1": 0.644}`.
    """

    name: str
    overrides: dict[str, Any]
    stages: tuple[Stage, ...]
    records: pathlib.Path
    place: tuple[Any, Any] | None = None
    paper: dict[str, float] = dataclasses.field(default_factory=dict)

    def is_done(self) -> bool:
        """Whether all stages have results."""
        return all(stage.results() is not None for stage in self.stages)

    def log(self, stage: Stage) -> pathlib.Path:
        """The log file of a stage."""
        return self.records / f"{stage.name}.log"

    def status(self) -> str:
        """One of "done", "other config", "not started", "unfinished", or the status that `record` wrote last."""
        if any(stage.disagreements() for stage in self.stages):
            return "other config"
        if self.is_done():
            return "done"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or one that a crash has torn
            return json.loads((self.records / "status.json").read_text())["status"]
        return "unfinished" if self.records.exists() or self.stages[0].workdir.exists() else "not started"

    def record(self, status: str, **details) -> None:
        """Writes how the run ended to status.json, with any details."""
        text = json.dumps({"status": status, **details}, indent=2) + "\n"
        (self.records / "status.json").write_text(text)


def check(runs: list[SweepRun], what: Callable[[Stage], None]) -> None:
    """Checks all stages of all runs in this process.

    Args:
      runs: the runs to check.
      what: `Stage.check` or `Stage.check_places`.

    Raises:
      UserError: the first mistake, with its run and stage, and the number of further mistakes.
    """
    mistakes = []
    for run in runs:
        for stage in run.stages:
            try:
                what(stage)
            except UserError as error:
                mistakes.append(f"run {run.name}, {stage.name}: {error}")
    if mistakes:
        raise UserError(mistakes[0] + (f" ({len(mistakes) - 1} more like this)" if len(mistakes) > 1 else ""))
