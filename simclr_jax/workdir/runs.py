"""Find and read the workdirs below a folder, and pair each evaluation with its untrained baseline."""

import dataclasses
import functools
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import KINDS
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.workdir import metrics_file

# An evaluation and its untrained baseline may differ in these fields.
OF_THE_BASELINE = ("init", "pretrained", "optimizer.learning_rate")
# Folders of a workdir that contain no other workdir.
NOT_RUNS = ("checkpoints", "damaged_checkpoints", "compilation_cache", "tensorboard", "profile")


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """One workdir.

    Attributes:
      name: its path without the folders that all runs have in common.
      path: the workdir.
      config: flat, such as {"optimizer.name": "lars"}.
      kind: the title of its kind, such as "linear probe".
      results: the content of results.json; None until the run is done.
    """

    name: str
    path: epath.Path
    config: dict[str, Any]
    kind: str
    results: dict[str, Any] | None

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return metrics_file.read(path) if path.exists() else []

    def draws(self) -> list[epath.Path]:
        """The folders of its label subsets."""
        return sorted(path for path in self.path.iterdir() if path.name.startswith("draw_"))


def find(workdirs: list[str]) -> list[SavedRun]:
    """All runs at or below some folders, sorted by path.

    Raises:
      UserError: if a folder does not exist or contains no run.
    """
    found: dict[str, epath.Path] = {}
    for workdir in workdirs:
        top = epath.Path(workdir)
        if not top.is_dir():
            raise UserError(f"--workdirs: the folder {workdir} does not exist.")
        here = [files.absolute(path) for path in _workdirs(top)]
        if not here:
            raise UserError(
                f"--workdirs: there is no run in {workdir}: neither it nor a folder below it has a config.json of simclr_jax."
            )
        found |= {str(path): path for path in here}
    names = _short(list(found))
    return [_read(name, path) for name, path in sorted(zip(names, found.values(), strict=True))]


def earlier_results(folder: epath.Path, config: ConfigDict) -> dict[str, Any] | None:
    """The results of a part of a run that was finished before it was interrupted; None where there are none.

    Raises:
      UserError: where they are of another config.
    """
    if not (folder / "results.json").exists():
        return None
    differing = saved_config.differences(config, saved_config.read(folder / "config.json", config))
    saved_config.refuse_another_run(folder, differing, "Take another --workdir.")
    return json.loads((folder / "results.json").read_text())


def evaluations(checkpoint: epath.Path, folders: list[epath.Path]) -> list[SavedRun]:
    """The finished runs directly in some folders that evaluated one checkpoint."""
    found: dict[str, SavedRun] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not (path / "config.json").exists() or not (path / "results.json").exists():
                continue
            try:
                run = _read(path.name, path)
            except (UserError, AttributeError, KeyError, TypeError, ValueError):
                continue  # another program's config.json
            if run.config.get("init") == "pretrained" and run.config.get("pretrained") == str(checkpoint):
                found[str(path)] = run
    return list(found.values())


def _workdirs(folder: epath.Path) -> list[epath.Path]:
    if (folder / "config.json").exists():
        return [folder]
    below = (path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in NOT_RUNS)
    return [workdir for path in below for workdir in _workdirs(path)]


def _short(paths: list[str]) -> list[str]:
    """The paths without the leading folders that all of them share."""
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
    """Pair each evaluation of a pretrained encoder with the same evaluation of an untrained one, or with None."""

    def key(run: SavedRun) -> str:
        rest = {field: value for field, value in run.config.items() if field not in OF_THE_BASELINE}
        return json.dumps([run.kind, rest], sort_keys=True)

    untrained = {key(run): run for run in runs if run.config.get("init") == "random"}
    ours = [run for run in runs if run.config.get("init") == "pretrained"]
    return [(run, untrained.get(key(run))) for run in ours]
