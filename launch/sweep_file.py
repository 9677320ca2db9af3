"""A sweep file: the runs that it yields, with their names and folders.

A file in `configs/sweeps/` has a function `sweep()`, or `sweep(arg)` for arguments behind a colon, that yields one dict
for each run:

    {
        "run": "pretrain --config=configs/digits.py:epochs=20",     # what all have in common, as one would type it
        "config.loss.temperature": 0.1,                             # what this run is: its name and its columns
        "then": {"knn": "knn"},                                     # evaluations of the pretrained encoder, if any
        "figure": ("normalised", 0.1),                              # series and place in the figure, if there is one
        "paper": {"probe.top1": 0.644},                             # what was published of this run, by columns
    }

For a figure the file also has `FIGURE`, see `launch.sweep_figure.Figure`.
"""

import dataclasses
import difflib
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
from launch.sweep_runs import Run
from launch.sweep_runs import Stage
from simclr_jax.config import CONFIGS
from simclr_jax.config import KINDS
from simclr_jax.errors import UserError

# What an item has besides the fields that tell it from the others.
NOT_FIELDS = ("run", "then", "figure", "paper")

# Folder names may have 255 bytes; TensorBoard's and a terminal's width ask for less.
LONGEST_NAME = 100


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep file says: its docstring, its runs, and the figure of their results, if it asks for one."""

    description: str
    runs: list[Run]
    figure: Figure | None = None


def load(argument: str, workdir: str) -> Sweep:
    """Reads a sweep file.

    Args:
      argument: FILE or FILE:argument=value,...
      workdir: of the sweep; each run has a folder in it, named by its overrides. May be in a bucket (gs://...); logs are
        then in runs/NAME on this machine.

    Raises:
      UserError: for whatever is wrong with the file, naming it and the run.
    """
    path, _, arg = argument.partition(":")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--sweep={argument}: no such file. The sweeps are in {CONFIGS / 'sweeps'}.")
    records = (
        pathlib.Path("runs", workdir.rstrip("/").rpartition("/")[2]) if "://" in workdir else pathlib.Path(workdir)
    )
    try:
        spec = importlib.util.spec_from_file_location("sweep_file", path)
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
    runs: dict[str, Run] = {}
    for number, item in enumerate(items):
        try:
            run = _make_run(item, epath.Path(workdir), records)
        except (UserError, ValueError) as error:  # ValueError: shlex's, for a quotation that is not closed
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
        raise UserError(f'{path}: FIGURE is there, but no run has a place in it, as in "figure": ("normalised", 0.1).')
    return Sweep((module.__doc__ or "").strip(), list(runs.values()), figure)


def _make_run(item: dict[str, Any], workdir: epath.Path, records: pathlib.Path) -> Run:
    overrides = {key: _plain(key, value) for key, value in item.items() if key not in NOT_FIELDS}
    for key in overrides:
        if not key.startswith("config."):
            raise UserError(
                f"{key!r} is none of {', '.join(map(repr, NOT_FIELDS))}, nor a field, as in 'config.loss.temperature'."
            )
    if "run" not in item:
        raise UserError('\'run\' is missing, as in "run": "pretrain --config=configs/digits.py".')
    if not overrides:
        raise UserError('no field tells this run from others, as in "config.loss.temperature": 0.1.')
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
        given = (*common, pretrained, *_cache(workdir, common))
        stages.append(Stage(follow_up, binary, given, workdir / name / follow_up, follow_up=True))
    place, paper = item.get("figure"), item.get("paper", {})
    if place is not None and not (isinstance(place, tuple) and len(place) == 2):
        raise UserError(f"'figure' is {place!r}, but should be (series, place), as in (\"normalised\", 0.1).")
    if not isinstance(paper, dict):
        raise UserError(f"'paper' is {paper!r}, but should be as {{\"probe.top1\": 0.644}}.")
    return Run(name, overrides, tuple(stages), records / name, place, paper)


def _cache(workdir: epath.Path, given: list[str]) -> tuple[str, ...]:
    """One compilation cache for the whole sweep, unless the flags name another: most of its runs have programs in common."""
    if any(re.match("--?compilation_cache", flag) for flag in given):
        return ()
    return (f"--compilation_cache={workdir / 'compilation_cache'}",)


def _split(command: str) -> tuple[str, list[str]]:
    """ "knn --config.neighbours=5" to binary and flags."""
    binary, *given = shlex.split(command) or [""]
    if binary not in KINDS:
        near = difflib.get_close_matches(binary, KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"{command!r} should begin with one of {', '.join(KINDS)}{hint}.")
    for flag in given:
        if re.match(r"--?workdir\b", flag):
            raise UserError(f"{command!r} has a --workdir, which the launcher gives.")
    if binary == "pretrain" and not any(re.match("--?config$|--?config=", flag) for flag in given):
        raise UserError(f"{command!r} has no --config, as in 'pretrain --config=configs/digits.py'.")
    return binary, given


def _plain(key: str, value: Any) -> Any:
    """NumPy's numbers as Python's, so that np.geomspace may be used."""
    if isinstance(value, list | tuple):
        return tuple(_plain(key, entry) for entry in value)
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool | int | float | str):
        raise UserError(f"{key} is {value!r}, but should be a number, a string, a bool or a tuple of them.")
    return value


def _text(value: Any) -> str:
    """As a flag takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_of(overrides: dict[str, Any]) -> str:
    """A folder name that is readable, and unique for the overrides: `normalize=true,temperature=0.1`.

    It depends on nothing but the run's own overrides, so a run keeps its folder when others are added to the sweep. Of a
    field's name only the last part is taken where that is enough. What a file system may not like becomes "-"; such a
    name, and one that is too long, ends with a part of a hash.
    """
    parts = []
    for key, value in overrides.items():
        words, length = key.split("."), 1
        others = [other.split(".") for other in overrides if other != key]
        while any(words[-length:] == other[-length:] for other in others):
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
    return _text(int(value) if whole else value)  # 1.0 is 1


def select(runs: list[Run], patterns: list[str]) -> list[Run]:
    """The runs that one of the patterns describes, all for no patterns.

    Args:
      runs: of the sweep.
      patterns: a run's name, or some of its parts ("normalize=true,temperature=0.*"; * and ? stand for anything).

    Raises:
      UserError: for a pattern that describes none.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {run.name for run in runs if run.name == pattern}
        found = found or {run.name for run in runs if _matches(run.name, pattern)}
        if not found:
            raise UserError(f"--only={pattern} is no run of this sweep. Its runs: {' '.join(run.name for run in runs)}")
        chosen |= found
    return [run for run in runs if not patterns or run.name in chosen]


def _matches(name: str, pattern: str) -> bool:
    return all(fnmatch.filter(name.split(","), part) for part in pattern.split(","))
