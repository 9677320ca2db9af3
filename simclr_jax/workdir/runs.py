"""Find and read the workdirs below a folder, and pair each evaluation with its untrained baseline."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import logging
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import KINDS
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.workdir import draws
from simclr_jax.workdir import metrics_file

log = logging.getLogger("simclr_jax")

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
        return draws.of_run(self.path)


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
        here = [files.absolute(path) for path in _workdirs(top, set())]
        if not here:
            raise UserError(
                f"--workdirs: there is no run in {workdir}: neither it nor a folder below it has a config.json of simclr_jax."
            )
        found = {_real(path): path for path in here} | found
    paths = {path: _fields(path) for path in found.values()}
    readable = [path for path, config in paths.items() if config is not None]
    if not readable:
        raise UserError(f"--workdirs: no run in {', '.join(workdirs)} can be read.")
    names = _short([str(path) for path in readable])
    return [_saved_run(name, path, paths[path] or {}) for name, path in sorted(zip(names, readable, strict=True))]


def earlier_results(folder: epath.Path, config: ConfigDict, measure: str) -> dict[str, Any] | None:
    """The results of a part of a run that was finished before it was interrupted; None where there are none.

    Args:
      folder: of the part.
      config: of the part.
      measure: a number that the results have, such as "top1".

    Raises:
      UserError: where they are of another config, or where a file of theirs is damaged.
    """
    path, remedy = folder / "results.json", f"delete the folder {folder}, and the same command computes it again"
    if not path.exists():
        return None
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has results, but no config.json: {remedy}.")
    differing = saved_config.differences(config, saved_config.read(folder / "config.json", config, remedy))
    saved_config.refuse_another_run(folder, differing, "Take another --workdir.")
    results = files.read_json(path, remedy)
    if not _is_number(results.get(measure)):
        raise UserError(f"{path} is damaged (it has no {measure}): {remedy}.")
    return results


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_results(folder: epath.Path, config: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The content of the results.json of a run; None where it has none, and with a warning where that is damaged.

    Args:
      folder: of the run.
      config: its flat config: then what such a run does not have in its results is damage, too.
    """
    path = folder / "results.json"
    if not path.exists():
        return None
    remedy = "its run is shown as not done; the same command writes it again"
    try:
        results = files.read_json(path, remedy)
        with files.damage_of(path, remedy):
            if config is not None:
                _check_results(results, config)
        return results
    except (UserError, OSError) as error:
        log.warning("%s", error)
        return None


def _check_results(results: dict[str, Any], config: Mapping[str, Any]) -> None:
    """Raises a KeyError or TypeError where the results of a run lack what is shown of them, or it is no number."""
    kind = config["kind"]
    if kind == "pretrain":
        numbers = [results["seconds"]]
    elif kind == "transfer":
        _ = results["protocol"], results["init"]
        numbers = [results["n"], results[results["metric"]]]
    elif kind == "transform_probe":
        numbers = [results[name] for name in config["transforms"].split()]
    else:
        numbers = [results["n"], *([] if results["top1"] is None else [results["top1"]])]
    numbers += [draw["labels"] for draw in results.get("draws") or []]
    known = ("top1", "top5", "mean_per_class", "top1_std", "val")
    numbers += [results[name] for name in known if results.get(name) is not None]
    for value in numbers:
        if not _is_number(value):
            raise TypeError(f"{value!r} is in it in place of a number")


def evaluations(checkpoint: epath.Path, folders: list[epath.Path]) -> list[SavedRun]:
    """The finished runs directly in some folders that evaluated one checkpoint."""
    found: dict[str, SavedRun] = {}
    for folder in folders:
        for path in _inside(folder) if folder.is_dir() else ():
            if not (path / "config.json").exists() or not (path / "results.json").exists():
                continue
            config = _fields(path)
            if config is None:
                continue  # another program's config.json, or a damaged one
            run = _saved_run(path.name, path, config)
            if run.config.get("init") == "pretrained" and run.config.get("pretrained") == str(checkpoint):
                found.setdefault(_real(path), run)
    return sorted((run for run in found.values() if run.results), key=lambda run: str(run.path))


def _workdirs(folder: epath.Path, seen: set[str]) -> list[epath.Path]:
    """The workdirs at or below a folder, each once. `seen`: the real paths of folders that were looked at, which grows."""
    if _real(folder) in seen:
        return []
    seen.add(_real(folder))
    if (folder / "config.json").exists():
        return [folder]
    try:
        below = [path for path in _inside(folder) if path.is_dir() and path.name not in NOT_RUNS]
    except PermissionError:
        log.warning("%s may not be read; it is skipped.", folder)
        return []
    return [workdir for path in below for workdir in _workdirs(path, seen)]


def _inside(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder, sorted, links last, so that a run is named by its folder and not by a link to it."""
    return sorted(folder.iterdir(), key=lambda path: (os.path.islink(path), path.name))


def _real(path: epath.Path) -> str:
    """The path without links. A bucket has none."""
    return str(path) if files.is_remote(path) else os.path.realpath(path)


def _short(paths: list[str]) -> list[str]:
    """The paths without the leading folders that all of them share."""
    parts = [path.split("/") for path in paths]
    common = 0
    while all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]


def _fields(path: epath.Path) -> dict[str, Any] | None:
    """The flat config of a workdir; None, with a warning, where it is damaged or of another program."""
    file, remedy = path / "config.json", "its run is left out"
    try:
        fields = saved_config.flatten(ConfigDict(saved_config.fields_in(file, remedy)))
        with files.damage_of(file, remedy):
            _check_shown(fields)
        return fields
    except (UserError, OSError) as error:
        log.warning("%s", error)
        return None


def _check_shown(fields: dict[str, Any]) -> None:
    """Raises a KeyError or TypeError where a flat config lacks what is shown of each run of its kind."""
    kind = fields["kind"]
    if kind in ("pretrain", "transfer"):
        _ = fields["data.name"], fields["data.root"], fields["data.source"]
    if kind == "pretrain":
        _ = fields["loss.name"], fields["model.depth"]
        for name in ("model.width", "epochs", "batch_size"):
            if not _is_number(fields[name]):
                raise TypeError(f"{name} is {fields[name]!r}, not a number")
    else:
        _ = fields["features"]
    if kind == "transform_probe":
        _ = fields["transforms"].split()


def _saved_run(name: str, path: epath.Path, config: dict[str, Any]) -> SavedRun:
    return SavedRun(name, path, config, KINDS[config["kind"]].title, read_results(path, config))


def baselines(runs: list[SavedRun]) -> list[tuple[SavedRun, SavedRun | None]]:
    """Pair each evaluation of a pretrained encoder with the same evaluation of an untrained one, or with None."""

    def key(run: SavedRun) -> str:
        rest = {field: value for field, value in run.config.items() if field not in OF_THE_BASELINE}
        return json.dumps([run.kind, rest], sort_keys=True)

    untrained = {key(run): run for run in runs if run.config.get("init") == "random"}
    ours = [run for run in runs if run.config.get("init") == "pretrained"]
    return [(run, untrained.get(key(run))) for run in ours]
