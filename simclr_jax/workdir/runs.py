"""The runs that binaries have left in their workdirs: found below a folder, read, and each with its untrained baseline."""

import dataclasses
import functools
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import KINDS
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.workdir import files
from simclr_jax.workdir import writers

# Fields in which an evaluation and its untrained baseline may differ.
OF_THE_BASELINE = ("init", "pretrained", "optimizer.learning_rate")
# Not looked into.
NOT_RUNS = ("checkpoints", "compilation_cache", "tensorboard", "profile")


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """One workdir."""

    name: str  # the part of its path that tells it from the others
    path: epath.Path
    config: dict[str, Any]  # flat: {"optimizer.name": "lars"}
    kind: str  # the title of its kind: "linear probe"
    results: dict[str, Any] | None  # None while it is not done

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return writers.read_metrics(path) if path.exists() else []

    def draws(self) -> list[epath.Path]:
        """Folders of its label draws."""
        return sorted(path for path in self.path.iterdir() if path.name.startswith("draw_"))


def find(workdirs: list[str]) -> list[SavedRun]:
    """All runs at or below some folders, by their paths.

    Raises:
      UserError: for a folder that is not there or holds no run.
    """
    found: dict[str, epath.Path] = {}
    for workdir in workdirs:
        top = epath.Path(workdir)
        if not top.is_dir():
            raise UserError(f"--workdirs: {workdir} is no folder.")
        here = [files.absolute(path) for path in _workdirs(top)]
        if not here:
            raise UserError(
                f"--workdirs: there is no run in {workdir}: no folder at or below it has a config.json of this program."
            )
        found |= {str(path): path for path in here}
    names = _short(list(found))
    return [_read(name, path) for name, path in sorted(zip(names, found.values(), strict=True))]


def _workdirs(folder: epath.Path) -> list[epath.Path]:
    if (folder / "config.json").exists():
        return [folder]
    below = (path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in NOT_RUNS)
    return [workdir for path in below for workdir in _workdirs(path)]


def _short(paths: list[str]) -> list[str]:
    """Paths without the folders that all of them have in common."""
    parts = [path.split("/") for path in paths]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]


def _read(name: str, path: epath.Path) -> SavedRun:
    try:
        config = saved_config.flatten(ConfigDict(saved_config.upgrade(json.loads((path / "config.json").read_text()))))
    except UserError as error:
        raise UserError(f"{path}/config.json: {error}") from error
    results = path / "results.json"
    return SavedRun(
        name, path, config, KINDS[config["kind"]].title, json.loads(results.read_text()) if results.exists() else None
    )


def baselines(runs: list[SavedRun]) -> list[tuple[SavedRun, SavedRun | None]]:
    """The evaluations of pretrained encoders with those of untrained ones that are like them, where there are any."""

    def key(run: SavedRun) -> str:
        rest = {field: value for field, value in run.config.items() if field not in OF_THE_BASELINE}
        return json.dumps([run.kind, rest], sort_keys=True)

    untrained = {key(run): run for run in runs if run.config.get("init") == "random"}
    ours = [run for run in runs if run.config.get("init") == "pretrained"]
    return [(run, untrained.get(key(run))) for run in ours]
