"""The results of a sweep as a table: results.csv with all numbers, and a short one to read."""

import csv
import io
import os
import statistics
from typing import Any

from etils import epath

from launch.sweep_runs import SweepRun

# These columns come first, in this order; the rest of results.json follows.
FIRST = ("top1", "top5", "top1_std", "loss", "seconds", "n", "step")
# The columns of the short table, for each stage.
SHORT = ("top1", "top1_std", "top5", "map11", "loss", "seconds")
PERCENT = ("top1", "top5", "top1_std", "mean_per_class", "map11", "val", "grayscale", "rotate", "noise", "sobel")
# Runs that differ only in these fields are repetitions of one setting.
SEEDS = ("seed", "label_seeds")


def rows(runs: list[SweepRun]) -> list[dict[str, Any]]:
    """The table: a row for each run, in the order of the sweep.

    Columns: `run` (its folder), `status`, the overrides without "config.", the numbers and strings in the results.json
    of its first stage, those of the other stages as STAGE.NAME, and published results as paper.NAME. Unknown values are
    missing from a row. Accuracies are fractions from 0 to 1, times are in seconds.
    """
    table = []
    for run in runs:
        row = {"run": run.name, "status": run.status()}
        row |= {key.removeprefix("config."): _one(value) for key, value in run.overrides.items()}
        for stage in run.stages if row["status"] != "other config" else ():
            results = stage.results() or {}
            prefix = f"{stage.name}." if stage.follow_up else ""
            names = [name for name in FIRST if name in results] + [name for name in results if name not in FIRST]
            row |= {prefix + name: results[name] for name in names if not isinstance(results[name], list | dict)}
        row |= {f"paper.{name}": value for name, value in run.paper.items()}
        table.append(row)
    return table


def _one(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def columns(table: list[dict[str, Any]]) -> list[str]:
    """The columns of all rows, in order of appearance; a new column is put next to its neighbours in the row."""
    names: list[str] = []
    for row in table:
        place = 0
        for name in row:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return names


def to_csv(table: list[dict[str, Any]]) -> str:
    """The table as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _overrides(runs: list[SweepRun]) -> list[str]:
    return list(dict.fromkeys(key.removeprefix("config.") for run in runs for key in run.overrides))


def _measures(runs: list[SweepRun], table: list[dict[str, Any]]) -> list[str]:
    """The columns of the short table that at least one run has, first stage first."""
    stages = dict.fromkeys(f"{stage.name}." if stage.follow_up else "" for run in runs for stage in run.stages)
    names = [stage + name for stage in stages for name in SHORT if not stage or name != "seconds"]
    published = dict.fromkeys(name for run in runs for name in run.paper)
    names += [name for name in published if name not in names] + [f"paper.{name}" for name in published]
    return [name for name in names if any(row.get(name) is not None for row in table) and not _all_zero(name, table)]


def _all_zero(name: str, table: list[dict[str, Any]]) -> bool:
    return name.endswith("top1_std") and not any(row.get(name) for row in table)


def _cell(name: str, value: Any) -> str:
    measure = name.rpartition(".")[2]
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if measure in PERCENT:
        return f"{100 * value:.1f}"
    if measure == "seconds":
        return f"{value:.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(runs: list[SweepRun], table: list[dict[str, Any]]) -> list[list[str]]:
    """The short table as cells of text, header first: overrides, status and the main measures; accuracies in %."""
    names = [*_overrides(runs), "status", *_measures(runs, table)]
    return [names, *([_cell(name, row.get(name)) for name in names] for row in table)]


def over_seeds(runs: list[SweepRun], table: list[dict[str, Any]]) -> list[list[str]]:
    """Like `short`, but with mean +- sample standard deviation over the finished runs that differ only in a seed.

    Empty if no setting has two such runs.
    """
    settings = [name for name in _overrides(runs) if name.rpartition(".")[2] not in SEEDS]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in table:
        if row["status"] == "done":
            groups.setdefault(tuple(_cell(name, row.get(name)) for name in settings), []).append(row)
    if not any(len(group) > 1 for group in groups.values()):
        return []
    measures = [name for name in _measures(runs, table) if not name.endswith("top1_std")]
    lines = [[*settings, "runs", *measures]]
    for setting, group in groups.items():
        cells = []
        for name in measures:
            values = [row[name] for row in group if row.get(name) is not None]
            cell = _cell(name, statistics.fmean(values)) if values else ""
            spread = len(values) > 1 and not name.startswith("paper.")
            cells.append(cell + (f" +- {_cell(name, statistics.stdev(values))}" if spread else ""))
        lines.append([*setting, str(len(group)), *cells])
    return lines


def aligned(lines: list[list[str]]) -> str:
    """The cells as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def to_markdown(lines: list[list[str]]) -> str:
    """The cells as a Markdown table."""

    def line(cells):
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(lines[0]), line(["---"] * len(lines[0])), *map(line, lines[1:])])


def write(runs: list[SweepRun], workdir: epath.Path, description: str) -> str:
    """Writes `results.csv` and `results.md` to the workdir of the sweep; returns the short table as text."""
    table = rows(runs)
    main, means = short(runs, table), over_seeds(runs, table)
    workdir.mkdir(parents=True, exist_ok=True)
    _replace(workdir / "results.csv", to_csv(table))
    parts = [description, "top1 and top5 in %.", to_markdown(main)]
    text = aligned(main)
    if means:
        what = "Mean +- standard deviation over the finished runs of a setting:"
        parts += [what, to_markdown(means)]
        text += f"\n\n{what}\n{aligned(means)}"
    _replace(workdir / "results.md", "\n\n".join(parts) + "\n")
    return text


def _replace(path: epath.Path, text: str) -> None:
    """Writes a file atomically, because several tasks of a job array may write it at the same time."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    temporary.write_text(text)
    temporary.replace(path)
