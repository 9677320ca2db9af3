"""Draws the results of a sweep as a figure, next to the published results of the same experiment.

A sweep file with a figure has a module attribute `FIGURE`, and each run has its place in the figure:

    FIGURE = Figure("lines", {"probe.top1": "linear probe of h"}, x="temperature", log=True)

    def sweep():
        yield {..., "figure": ("normalised", 0.1), "paper": {"probe.top1": 0.644}}
"""

import dataclasses
import math
import statistics
from typing import Any

from etils import epath

from launch.sweep_runs import SweepRun
from simclr_jax.reporting import pictures


@dataclasses.dataclass(frozen=True)
class Figure:
    """What the figure of a sweep shows.

    Attributes:
      kind: "lines" over numbers, "bars" for names, "matrix" for pairs of names. A cell of a matrix is a run's (series, x);
        it is repeated on the other side of the diagonal if no run is there.
      measures: columns of results.csv, fractions from 0 to 1, each with its title. Each has a panel. Published results have
        separate panels, because their images and networks differ from ours.
      x: label of the x axis.
      log: logarithmic x axis, for "lines" only.
    """

    kind: str
    measures: dict[str, str]
    x: str = ""
    log: bool = False

    def __post_init__(self):
        if self.kind not in ("lines", "bars", "matrix"):
            raise ValueError(f"a figure is of lines, bars or a matrix, but not of {self.kind!r}.")


# Values by place: {(series, x): [one for each seed]}.
Values = dict[tuple[Any, Any], list[float]]


def values_of(runs: list[SweepRun], measure: str) -> Values:
    """The values of a column, "top1" or "STAGE.top1", of the finished runs, in %, by place."""
    values: Values = {}
    stage_name, _, column = measure.rpartition(".")
    for run in runs:
        if run.place is None or run.status() != "done":
            continue
        for stage in run.stages:
            value = (stage.results() or {}).get(column)
            if stage.name == (stage_name or run.stages[0].name) and value is not None:
                values.setdefault(run.place, []).append(100 * value)
    return values


def published(runs: list[SweepRun], measure: str) -> Values:
    """The published values, in %, by place."""
    return {run.place: [100 * run.paper[measure]] for run in runs if run.place and measure in run.paper}


def draw(figure: Figure, runs: list[SweepRun], path: epath.Path) -> bool:
    """Writes the figure of the finished runs as PNG; returns False if there is nothing to draw."""
    panels = [(name, values) for key, name in figure.measures.items() if (values := values_of(runs, key))]
    if not panels:
        return False
    papers = {
        f"{name}, in the paper": values for key, name in figure.measures.items() if (values := published(runs, key))
    }
    panels += papers.items()
    order = list(dict.fromkeys(run.place[1] for run in runs if run.place))
    colours = {series: f"C{n}" for n, series in enumerate(dict.fromkeys(run.place[0] for run in runs if run.place))}
    side = 1.8 + 0.55 * len(order) if figure.kind == "matrix" else max(3.4, 1.2 + 0.45 * len(order))
    picture = pictures.new_figure(side * len(panels), side * 0.85 if figure.kind == "matrix" else 3.4)
    for number, (title, values) in enumerate(panels, start=1):
        axes = picture.add_subplot(1, len(panels), number)
        axes.set_title(title, fontsize=10)
        if figure.kind == "matrix":
            _matrix(axes, values)
        else:
            if figure.kind == "lines":
                _lines(axes, values, colours)
            else:
                _bars(axes, values, colours, order)
            if figure.log:
                axes.set_xscale("log")
            axes.set_xlabel(figure.x)
            axes.set_ylabel("top-1, %")
            axes.grid(alpha=0.3)
            if len(colours) > 1 and number == 1:
                axes.legend(fontsize=8)
    pictures.save(picture, path)
    return True


def _mean_and_spread(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _range(values: Values) -> tuple[float, float]:
    single = [value for seeds in values.values() for value in seeds]
    return min(single), max(single)


def _lines(axes, values: Values, colours: dict[Any, str]) -> None:
    for series, colour in colours.items():
        places = sorted(x for one, x in values if one == series)
        if places:
            means, spreads = zip(*(_mean_and_spread(values[series, x]) for x in places), strict=True)
            axes.errorbar(places, means, spreads, marker="o", markersize=4, capsize=3, color=colour, label=str(series))


def _bars(axes, values: Values, colours: dict[Any, str], order: list) -> None:
    present = [x for x in order if any(place[1] == x for place in values)]
    width = 0.8 / len(colours)
    for number, (series, colour) in enumerate(colours.items()):
        mine = [x for x in present if (series, x) in values]
        places = [present.index(x) + (number - (len(colours) - 1) / 2) * width for x in mine]
        means, spreads = [*zip(*(_mean_and_spread(values[series, x]) for x in mine), strict=True)] or ((), ())
        axes.bar(places, means, 0.9 * width, yerr=spreads, capsize=3, color=colour, label=str(series))
    axes.set_xticks(range(len(present)), [str(x) for x in present], rotation=30, ha="right", fontsize=8)
    # With an axis from 0, all bars would look the same.
    low, high = _range(values)
    axes.set_ylim(max(0.0, low - 0.3 * (high - low) - 1), high + 0.1 * (high - low) + 1)


def _matrix(axes, values: Values) -> None:
    names = list(dict.fromkeys(name for place in values for name in place))
    grid = [[math.nan] * len(names) for _ in names]
    for (one, other), seeds in values.items():
        mirrored = [] if (other, one) in values else [(other, one)]
        for row, column in [(one, other), *mirrored]:
            mean, spread = _mean_and_spread(seeds)
            row, column = names.index(row), names.index(column)
            grid[row][column] = mean
            text = f"{mean:.1f}" + (f"\n±{spread:.1f}" if spread else "")
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    low, high = _range(values)
    axes.imshow(grid, cmap="Blues", vmin=low - 5, vmax=high + 10)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
