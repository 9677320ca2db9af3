"""Tables of `benchmarks.verdict`: a line for each run, and rank correlations with the linear probe."""

from collections.abc import Callable
from collections.abc import Sequence
import csv
import json
import pathlib
from typing import Any

import numpy as np
from scipy.stats import rankdata as ranks

from benchmarks.pages import filled
from benchmarks.verdict_runs import Run

UNTRAINED = "untrained"  # the name of the folder with the probe of the untrained network
RESAMPLES = 2000  # of the bootstrap
FEWEST_RUNS = 3  # of a data set; fewer have no meaningful rank correlation
SCORE = "score"

Row = dict[str, Any]


def rows_of(output: pathlib.Path, runs: Sequence[Run]) -> list[Row]:
    """What is finished: `dataset`, `run`, `probe`, `untrained` (its probe), the score and all measures."""
    rows = []
    for run in runs:
        place = output / run.place
        probe, verdict = (_read(place / name) for name in ("probe/results.json", "verdict/verdict.json"))
        untrained = _read(output / run.dataset / UNTRAINED / "probe" / "results.json")
        if probe is None or verdict is None or untrained is None:
            continue
        row = {"dataset": run.dataset, "run": run.name, "probe": probe["top1"], "untrained": untrained["top1"]}
        row |= {SCORE: verdict["score"], "score_untrained": verdict["score_untrained"]}
        row |= {f"answer_{one['about']}": one["answer"] for one in verdict["statements"]}
        rows.append(row | verdict["parts"] | verdict["measures"]["pretrained"])
    numbers = {name: len(of_one) for name, of_one in by_dataset(rows).items()}
    return [row for row in rows if numbers[row["dataset"]] >= FEWEST_RUNS]


def _read(path: pathlib.Path) -> Row | None:
    return json.loads(path.read_text()) if path.exists() else None


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two sequences `[n]`; ties have their mean rank. NaN where all of one are equal."""
    return _correlation(ranks(first), ranks(second))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def pooled(rows: Sequence[Row], name: str) -> float:
    """The correlation over several data sets: of ranks within each data set, as a share of its runs, put together."""
    measured: list[np.ndarray] = []
    probed: list[np.ndarray] = []
    for of_one in by_dataset(rows).values():
        for values, found in ((column(of_one, name), measured), (column(of_one, "probe"), probed)):
            share = (ranks(values) - 0.5) / len(values)
            found.append(share - share.mean())
    return _correlation(np.concatenate(measured), np.concatenate(probed))


def by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = dict.fromkeys(row["dataset"] for row in rows)
    return {name: [row for row in rows if row["dataset"] == name] for name in names}


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def interval(rows: Sequence[Row], statistic: Callable[[Sequence[Row]], float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of a statistic over resampled runs (bootstrap within each data set)."""
    rng = np.random.default_rng(0)
    groups = list(by_dataset(rows).values())
    found = []
    for _ in range(RESAMPLES):
        found.append(
            statistic([of_one[place] for of_one in groups for place in rng.integers(len(of_one), size=len(of_one))])
        )
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def correlations(rows: Sequence[Row]) -> str:
    """A Markdown table: every number that all runs have, with its correlation within each data set and pooled."""
    groups = by_dataset(rows)
    left_out = ("probe", "untrained", "score_untrained")
    names = [name for name in rows[0] if isinstance(rows[0][name], float) and name not in left_out]
    names = [name for name in names if all(row.get(name) is not None for row in rows)]
    found = {
        name: [*(spearman(column(of_one, name), column(of_one, "probe")) for of_one in groups.values())]
        for name in names
    }
    total = {name: pooled(rows, name) for name in names}
    lines = [f"| measure | {' | '.join(f'{name}, {len(of_one)} runs' for name, of_one in groups.items())} | pooled |"]
    lines.append("| --- |" + " ---: |" * (len(groups) + 1))
    for name in sorted(names, key=lambda name: (name != SCORE, -abs(total[name]))):
        lines.append(f"| {name} | {' | '.join(f'{value:+.2f}' for value in found[name])} | {total[name]:+.2f} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """How well the score ranks and chooses runs, and whether "learned" is right: a line for each data set."""
    return "\n".join(f"- {name}: {_of_dataset(of_one)}" for name, of_one in by_dataset(rows).items())


def _of_dataset(rows: Sequence[Row]) -> str:
    probe, score, untrained = (column(rows, name) for name in ("probe", SCORE, "untrained"))
    low, high = interval(rows, lambda some: spearman(column(some, SCORE), column(some, "probe")))
    above, said = probe > untrained, np.array([row["answer_learned"] == "yes" for row in rows])
    wrong = f"{(~above & said).sum()} wrongly yes, {(above & ~said).sum()} wrongly not"
    return (
        f"{len(rows)} runs with probes of {probe.min():.1%} to {probe.max():.1%}; untrained {untrained[0]:.1%}. Rank "
        f"correlation of the score {spearman(score, probe):.2f} (95 % interval {low:.2f} to {high:.2f}). The run with the "
        f"highest score has {probe[score.argmax()]:.1%}. The sentence on learning agrees with the probe in "
        f"{(above == said).sum()} of {len(rows)} runs: {wrong}."
    )


def write(output: pathlib.Path, runs: Sequence[Run], docs: pathlib.Path | None = None) -> str:
    """Write runs.csv and correlations.md to the output, and to docs/verdict.md and docs/results if wanted; return the text."""
    rows = rows_of(output, runs)
    if not rows:
        return "No run is finished."
    text = f"{summary(rows)}\n\n{correlations(rows)}\n"
    (output / "correlations.md").write_text(text)
    tables = [output / "runs.csv"]
    if docs is not None:
        tables.append(docs / "results" / "verdict.csv")
        page = docs / "verdict.md"
        page.write_text(filled(page.read_text(), text, "verdict"))
    for table in tables:
        _write_csv(table, rows)
    return text


def _write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )
