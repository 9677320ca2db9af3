"""The runs of a sweep: their commands, whether these are right, and how far each is."""

from collections.abc import Callable
import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime.flags import parse_run


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of a run.

    Attributes:
      name: of its folder in the run's, and of its columns: "pretrain", or the key in "then".
      binary: module of simclr_jax.
      flags: of the binary, without --workdir.
      workdir: the binary's.
      follow_up: whether it evaluates what an earlier stage of the run has trained.
    """

    name: str
    binary: str
    flags: tuple[str, ...]
    workdir: epath.Path
    follow_up: bool = False

    def command(self, python: str = sys.executable) -> list[str]:
        return [python, "-m", f"simclr_jax.{self.binary}", *self.flags, f"--workdir={self.workdir}"]

    @functools.cached_property
    def _parsed(self) -> flags.FlagValues:
        values = flags.FlagValues()
        parse_run(self.command()[2:], values, self.binary, check_places=False)
        return values

    @property
    def config(self) -> ConfigDict:
        """What the binary is given; unset fields are not yet those of the pretraining run.

        Raises:
          UserError: as the binary itself.
        """
        return self._parsed["config"].value

    def _schema(self) -> ConfigDict:
        return config_lib.defaults(self.binary)

    def check(self) -> None:
        """Refuses what the binary would refuse at its start, as far as that can be told without data and devices.

        Raises:
          UserError: names the field.
        """
        config = self.config
        config_checks.check_fields(config, self._schema())
        config_checks.check_values(config, device_count=1)
        if not config_lib.KINDS[self.binary].evaluates:
            hint = "set it in the config file or in the sweep."
            config_checks.require(config, "data.source", "data.image_size", "data.eval_crop", "model.depth", hint=hint)
        elif config.init == "pretrained" and not self._parsed["pretrained"].value:
            raise UserError("--pretrained is missing: the workdir of a pretraining run.")

    def check_places(self) -> None:
        """Refuses a checkpoint that is not there, and a workdir in which another run's config stands.

        Raises:
          UserError: with the folder and, where these differ, the fields.
        """
        pretrained = None if self.binary == "pretrain" or self.follow_up else self._parsed["pretrained"].value
        if pretrained and not epath.Path(pretrained).exists():
            raise UserError(f"--pretrained={pretrained} does not exist.")
        saved_config.refuse_another_run(
            self.workdir,
            self.disagreements(),
            "Take another --workdir, move that folder away, or make the field part of what the sweep yields.",
        )

    def disagreements(self) -> list[str]:
        """The fields in which the workdir's config.json is another run's, a line for each."""
        path = self.workdir / "config.json"
        if not path.exists():
            return []
        saved = saved_config.read(path, self._schema())
        config = self.config.copy_and_resolve_references()
        if self.binary != "pretrain":
            saved_config.inherit(config, saved)  # what the evaluation has filled in from the checkpoint's config
            config.pretrained = saved.pretrained
            given = self._parsed["pretrained"].value
            if given and saved.pretrained and not self.follow_up:
                path = epath.Path(given).resolve()
                if path != epath.Path(saved.pretrained) and path not in epath.Path(saved.pretrained).parents:
                    config.pretrained = str(path)
        return saved_config.differences(config, saved)

    def results(self) -> dict[str, Any] | None:
        """What stands in results.json; None where the stage is not done."""
        path = self.workdir / "results.json"
        return json.loads(path.read_text()) if path.exists() and (self.workdir / "config.json").exists() else None


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of the table.

    Attributes:
      name: of its folder.
      overrides: what it is: `{"config.loss.temperature": 0.1}`.
      stages: its commands; each needs those before it.
      records: folder on this machine for logs and for what is known of a run that failed.
      place: in the sweep's figure, (series, x), if it has one.
      paper: what was published of it, by columns of the table: `{"probe.top1": 0.644}`.
    """

    name: str
    overrides: dict[str, Any]
    stages: tuple[Stage, ...]
    records: pathlib.Path
    place: tuple[Any, Any] | None = None
    paper: dict[str, float] = dataclasses.field(default_factory=dict)

    def is_done(self) -> bool:
        return all(stage.results() is not None for stage in self.stages)

    def log(self, stage: Stage) -> pathlib.Path:
        return self.records / f"{stage.name}.log"

    def status(self) -> str:
        """One of "done", "other config", "not started", "unfinished", or what `record` was last told."""
        if any(stage.disagreements() for stage in self.stages):
            return "other config"
        if self.is_done():
            return "done"
        if (self.records / "status.json").exists():
            return json.loads((self.records / "status.json").read_text())["status"]
        return "unfinished" if self.records.exists() or self.stages[0].workdir.exists() else "not started"

    def record(self, status: str, **details) -> None:
        """Keeps how the run ended, with whatever details there are."""
        text = json.dumps({"status": status, **details}, indent=2) + "\n"
        (self.records / "status.json").write_text(text)


def check(runs: list[Run], what: Callable[[Stage], None]) -> None:
    """All stages of all runs, in this process.

    Args:
      runs: any.
      what: `Stage.check` or `Stage.check_places`.

    Raises:
      UserError: the first mistake, with its run and stage, and how many more there are.
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
