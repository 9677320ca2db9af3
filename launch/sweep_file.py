"""Reads a sweep file: the runs that it yields, with their names and folders.

A file in `configs/sweeps/` has a function `sweep()`, or `sweep(arg)` for arguments after a colon. It yields one dict for
each run:

    {
        "run": "pretrain --config=configs/digits.py:epochs=20",     # the command, the same for all runs
        "config.loss.temperature": 0.1,                             # overrides of this run: its name and its columns
        "then": {"knn": "knn"},                                     # optional: evaluations of the pretrained encoder
        "figure": ("normalised", 0.1),                              # optional: series and x in the figure
        "paper": {"probe.top1": 0.644},                             # optional: published results, by column
    }

A file with a figure also has `FIGURE`, see `launch.sweep_figure.Figure`.
"""

import dataclasses
import fnmatch
import hashlib
import importlib.util
import inspect
import pathlib
import re
import shlex
import traceback
from typing import Any

from etils import epath

from launch.sweep_figure import Figure
from launch.sweep_runs import Stage
from launch.sweep_runs import SweepRun
from simclr_jax.config import CONFIGS
from simclr_jax.config import KINDS
from simclr_jax.errors import UserError
from simclr_jax.errors import nearest

# The keys of an item that are no config fields.
NOT_FIELDS = ("run", "then", "figure", "paper")

# File systems allow 255 bytes, but such names are too wide for TensorBoard and terminals.
LONGEST_NAME = 100


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The content of a sweep file: its docstring, its runs, and its figure, if it has one."""

    description: str
    runs: list[SweepRun]
    figure: Figure | None = None


def load(argument: str, workdir: str) -> Sweep:
    """Reads a sweep file.

    Args:
      argument: FILE or FILE:argument=value,...
      workdir: of the sweep. Each run has a folder in it, named after its overrides. May be in a bucket (gs://...); then the
        logs are in runs/NAME on this machine.

    Raises:
      UserError: for any mistake in the file, with its name and the number of the run.
    """
    path, _, arg = argument.partition(":")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--sweep={argument}: no such file. The sweeps are in {CONFIGS / 'sweeps'}.")
    records = (
        pathlib.Path("runs", workdir.rstrip("/").rpartition("/")[2]) if "://" in workdir else pathlib.Path(workdir)
    )
    try:
        spec = importlib.util.spec_from_file_location("sweep_file", path)
        assert spec is not None and spec.loader is not None, path  # a path that ends in .py has both
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "sweep"):
            raise UserError("it has no function sweep() that yields the runs.")
        if arg and not inspect.signature(module.sweep).parameters:
            raise UserError(f"its sweep() takes no arguments, but {arg!r} was given.")
        items = list(module.sweep(arg) if arg else module.sweep())
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        line = next(
            (frame.lineno for frame in traceback.extract_tb(error.__traceback__)[::-1] if frame.filename == path), "?"
        )
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    runs: dict[str, SweepRun] = {}
    for number, item in enumerate(items):
        try:
            run = _make_run(item, epath.Path(workdir), records)
        except (UserError, ValueError) as error:  # shlex raises ValueError for a quotation that is not closed
            raise UserError(f"{path}, run {number}: {error}") from error
        if run.name in runs:
            raise UserError(f"{path}, run {number}: an earlier run has the same overrides, {run.name}.")
        runs[run.name] = run
    if not runs:
        raise UserError(f"{path}: sweep() yields no runs.")
    figure = getattr(module, "FIGURE", None)
    if figure is not None and not isinstance(figure, Figure):
        raise UserError(f"{path}: FIGURE is {figure!r}, but should be a launch.sweep_figure.Figure.")
    if figure is not None and not any(run.place for run in runs.values()):
        raise UserError(
            f'{path}: there is a FIGURE, but no run has a place in it, as in "figure": ("normalised", 0.1).'
        )
    return Sweep((module.__doc__ or "").strip(), list(runs.values()), figure)


def _make_run(item: dict[str, Any], workdir: epath.Path, records: pathlib.Path) -> SweepRun:
    overrides = {key: _plain(key, value) for key, value in item.items() if key not in NOT_FIELDS}
    for key in overrides:
        if not key.startswith("config."):
            raise UserError(
                f"{key!r} is none of {', '.join(map(repr, NOT_FIELDS))}, nor a field, as in 'config.loss.temperature'."
            )
    if "run" not in item:
        raise UserError('\'run\' is missing, as in "run": "pretrain --config=configs/digits.py".')
    if not overrides:
        raise UserError('no field sets this run apart, as in "config.loss.temperature": 0.1.')
    name = name_of(overrides)
    binary, common = _split(item["run"])
    given = (f"--{key}={_text(value)}" for key, value in overrides.items())
    first = Stage(binary, binary, (*common, *given, *_cache(workdir, common)), workdir / name / binary)
    stages = [first]
    for follow_up, command in item.get("then", {}).items():
        if first.binary != "pretrain":
            raise UserError(f"'then' evaluates a pretrained encoder, but 'run' is {first.binary}.")
        if follow_up == first.name or not re.fullmatch(r"\w[\w.-]*", follow_up):
            raise UserError(f"{follow_up!r} in 'then' cannot name a folder beside {first.name!r}.")
        binary, common = _split(command)
        if binary == "pretrain":
            raise UserError(f"'then' has evaluations only, but {follow_up!r} is pretrain.")
        pretrained = f"--pretrained={first.workdir}"
        words = (*common, pretrained, *_cache(workdir, common))
        stages.append(Stage(follow_up, binary, words, workdir / name / follow_up, follow_up=True))
    place, paper = item.get("figure"), item.get("paper", {})
    if place is not None and not (isinstance(place, tuple) and len(place) == 2):
        raise UserError(f"'figure' is {place!r}, but should be (series, x), as in (\"normalised\", 0.1).")
    if not isinstance(paper, dict):
        raise UserError(f"'paper' is {paper!r}, but should be as {{\"probe.top1\": 0.644}}.")
    return SweepRun(name, overrides, tuple(stages), records / name, place, paper)


def _cache(workdir: epath.Path, given: list[str]) -> tuple[str, ...]:
    """The flag for one compilation cache for the whole sweep, because most runs share programs. Empty if one is given."""
    if any(re.match("--?compilation_cache", flag) for flag in given):
        return ()
    return (f"--compilation_cache={workdir / 'compilation_cache'}",)


def _split(command: str) -> tuple[str, list[str]]:
    """Splits "knn --config.neighbours=5" into binary and flags."""
    binary, *given = shlex.split(command) or [""]
    if binary not in KINDS:
        raise UserError(f"{command!r} should begin with one of {', '.join(KINDS)}{nearest(binary, KINDS)}.")
    for flag in given:
        if re.match(r"--?workdir\b", flag):
            raise UserError(f"{command!r} has a --workdir, but the launcher sets it.")
    if binary == "pretrain" and not any(re.match("--?config$|--?config=", flag) for flag in given):
        raise UserError(f"{command!r} has no --config, as in 'pretrain --config=configs/digits.py'.")
    return binary, given


def _plain(key: str, value: Any) -> Any:
    """Converts NumPy numbers to Python numbers, so that a sweep may use np.geomspace."""
    if isinstance(value, list | tuple):
        return tuple(_plain(key, entry) for entry in value)
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool | int | float | str):
        raise UserError(f"{key} is {value!r}, but should be a number, a string, a bool or a tuple of them.")
    return value


def _text(value: Any) -> str:
    """A value as it is written in a flag."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_of(overrides: dict[str, Any]) -> str:
    """A readable folder name, unique for the overrides: `normalize=true,temperature=0.1`.

    It depends only on the overrides of this run, so a run keeps its folder when the sweep grows. It has only the last part
    of a field's name if that is unambiguous. Characters that a file system may refuse become "-". A name with such
    characters, or one that is too long, ends with a part of a hash.
    """
    parts = []
    for key, value in overrides.items():
        words, length = key.split("."), 1
        other_keys = [other.split(".") for other in overrides if other != key]
        while any(words[-length:] == other[-length:] for other in other_keys):
            length += 1
        entries = value if isinstance(value, tuple) else (value,)
        parts.append(f"{'.'.join(words[-length:])}={'_'.join(map(_in_name, entries))}")
    text = ",".join(parts)
    name = re.sub(r"[^\w.+=,-]", "-", text, flags=re.ASCII)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _in_name(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return _text(int(value) if whole else value)  # 1.0 becomes 1


def select(runs: list[SweepRun], patterns: list[str]) -> list[SweepRun]:
    """The runs that match one of the patterns; all runs if there are no patterns.

    Args:
      runs: of the sweep.
      patterns: the name of a run, or parts of it with wildcards ("normalize=true,temperature=0.*").

    Raises:
      UserError: for a pattern that matches no run.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {run.name for run in runs if run.name == pattern}
        matching = matching or {run.name for run in runs if _matches(run.name, pattern)}
        if not matching:
            raise UserError(f"--only={pattern} is no run of this sweep. Its runs: {' '.join(run.name for run in runs)}")
        chosen |= matching
    return [run for run in runs if not patterns or run.name in chosen]


def _matches(name: str, pattern: str) -> bool:
    return all(fnmatch.filter(name.split(","), part) for part in pattern.split(","))
