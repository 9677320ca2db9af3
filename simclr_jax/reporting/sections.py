"""What a report says about some runs, as plain data. `reporting.page` renders it."""

import base64
import io
import json
import logging
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.config import KINDS
from simclr_jax.errors import UserError
from simclr_jax.reporting import pictures
from simclr_jax.reporting import summary
from simclr_jax.reporting.parts import Cell
from simclr_jax.reporting.parts import Figure
from simclr_jax.reporting.parts import Matrix
from simclr_jax.reporting.parts import Part
from simclr_jax.reporting.parts import Section
from simclr_jax.reporting.parts import Table
from simclr_jax.workdir import metrics_file
from simclr_jax.workdir import predictions
from simclr_jax.workdir import runs as saved_runs
from simclr_jax.workdir.runs import SavedRun

log = logging.getLogger("simclr_jax")

# Kinds with their own section.
OWN_SECTION = ("transform probe", "transfer")
# With more classes than this, the most frequent confusions are listed instead of the matrix.
LARGEST_MATRIX = 30
# How many are listed.
LISTED_CONFUSIONS = 20

# Pictures in a workdir: file name to title and text.
PICTURES = {
    "views.png": ("Augmented views", "Pairs that the network had to match."),
    "neighbours.png": (
        "Nearest neighbours",
        "Test images and the training images nearest to them. Red: another class.",
    ),
    "embedding_map.png": (
        "Map of the embeddings",
        "Test images in two dimensions (t-SNE): images with similar representations are near each other. Colours are classes; "
        "images without labels are drawn themselves.",
    ),
    "similar_pairs.png": (
        "Most similar pairs",
        "The pairs of images that the network finds most alike, with their similarity (1: the same direction from the mean). "
        "Duplicates are among the first.",
    ),
    "clusters.png": (
        "Clusters",
        "Groups of images that the network finds alike, the largest first, each with its most typical images. What the images "
        "of a group share is what the network has learned to see.",
    ),
}


def all_sections(runs: list[SavedRun]) -> list[Section]:
    """The sections for some runs, in the order of the page. A section with nothing to show is left out."""
    made = [summary.summary(runs), results(runs), transfer(runs), transforms(runs), pretraining(runs), curves(runs)]
    made += [picture(runs, name) for name in PICTURES]
    made += [confusions(runs), configs(runs)]
    return [section for section in made if section.parts]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _top1(run: SavedRun | None) -> str:
    if run is None or run.results is None:
        return ""
    if run.results["top1"] is None:
        return "no labels"
    spread = run.results.get("top1_std") or 0.0
    return _percent(run.results["top1"]) + (f" \N{PLUS-MINUS SIGN} {100 * spread:.1f}" if spread else "")


def _labels(run: SavedRun) -> str:
    draws = (run.results or {}).get("draws") or []
    if not draws:
        return ""
    return f"{draws[0]['labels']:,}" + (f" \N{MULTIPLICATION SIGN} {len(draws)} subsets" if len(draws) > 1 else "")


def _link(run: SavedRun) -> Cell:
    return Cell(run.name, run=run.name)


def _data_of(run: SavedRun) -> str:
    return str(run.config["data.name"] or run.config["data.root"] or run.config["data.source"])


def results(runs: list[SavedRun]) -> Section:
    """Top-1 of every evaluation beside that of the untrained network."""
    runs = [run for run in runs if run.kind not in OWN_SECTION]
    rows: list[list[Cell | str]] = []
    pairs = saved_runs.baselines(runs)
    for run, other in pairs:
        gain = ""
        if run.results and other and other.results and None not in (run.results["top1"], other.results["top1"]):
            gain = f"{100 * (run.results['top1'] - other.results['top1']):+.1f}"
        what = run.kind + ("" if run.config["features"] == "h" else f" of {run.config['features']}")
        top5, per_class = (_percent((run.results or {}).get(name)) for name in ("top5", "mean_per_class"))
        top1 = Cell(_top1(run) or "not done", style="bold")
        rows.append([_link(run), what, _labels(run), top1, _top1(other), gain, top5, per_class])
    matched = {other.name for _, other in pairs if other}
    for run in runs:
        if run.config.get("init") == "random" and run.name not in matched:
            rows.append([_link(run), f"{run.kind}, untrained", _labels(run), "", _top1(run) or "not done", "", "", ""])
    header = ["run", "evaluation", "labels", "top-1, %", "untrained", "gain", "top-5, %", "mean per class, %"]
    text = (
        "On the test images. Untrained is the same evaluation of the same network with random weights; for fine-tuning that "
        "is training from scratch. \N{PLUS-MINUS SIGN} is the standard deviation over subsets of the labels."
    )
    return Section("Results", text, [Part(table=Table(header, rows))] if rows else [])


def transfer(runs: list[SavedRun]) -> Section:
    """Accuracy on other data sets."""
    rows: list[list[Cell | str]] = []
    for run in (run for run in runs if run.kind == "transfer"):
        got = run.results
        if not got:
            continue
        rows.append(
            [
                *(_link(run), _data_of(run), got["protocol"], got["init"], got["metric"]),
                Cell(_percent(got[got["metric"]]), style="bold"),
                *(_percent(got["val"]), f"{got['n']:,}"),
            ]
        )
    header = ["run", "data", "protocol", "encoder", "metric", "test, %", "validation, %", "test images"]
    return Section("Transfer", "", [Part(table=Table(header, rows))] if rows else [])


def transforms(runs: list[SavedRun]) -> Section:
    """How well transformations are recognised from the features."""
    probes = [run for run in runs if run.kind == "transform probe" and run.results]
    names = list(dict.fromkeys(name for run in probes for name in run.config["transforms"].split()))
    rows = [
        [_link(run), run.config["features"], *(_percent((run.results or {}).get(name)) for name in names)]
        for run in probes
    ]
    text = "How often the transformation of an image is recognised from its features, in %."
    return Section("Transformations", text, [Part(table=Table(["run", "features", *names], rows))] if rows else [])


def pretraining(runs: list[SavedRun]) -> Section:
    """What was pretrained, and the last metrics."""
    rows: list[list[Cell | str]] = []
    for run in (run for run in runs if run.kind == "pretraining"):
        config = run.config
        last: dict[str, Any] = next((line for line in reversed(run.metrics) if "loss" in line), {})
        numbers = (
            f"{last[key]:.3f}" if key in last else "" for key in ("loss", "contrastive_top1", "contrastive_entropy")
        )
        rows.append(
            [
                *(_link(run), f"ResNet-{config['model.depth']} ({config['model.width']:g}x)", _data_of(run)),
                *(f"{config['epochs']:g}", f"{config['batch_size']:,}", f"{last['step']:,}" if last else ""),
                f"{run.results['seconds']:,.0f} s" if run.results else f"at step {last.get('step', 0)}",
                *numbers,
                _percent((run.results or {}).get("top1")),
            ]
        )
    header = ["run", "network", "images", "epochs", "batch", "steps", "time", "loss"]
    header += ["contrastive top-1", "entropy", "online top-1, %"]
    return Section("Pretraining", "", [Part(table=Table(header, rows))] if rows else [])


def curves(runs: list[SavedRun]) -> Section:
    """Training curves, the runs of a kind in one drawing."""
    parts = []
    for kind in (known.title for known in KINDS.values()):
        lines = {}
        for run in (run for run in runs if run.kind == kind):
            of_draw = (path / "metrics.jsonl" for path in run.draws()[:1])
            read = [run.metrics, *(metrics_file.read(file) for file in of_draw if file.exists())]
            longest = max(read, key=len, default=[])
            if len(longest) > 1:
                lines[run.name] = longest
        if lines:
            drawn = [run for run in runs if run.name in lines]
            parts.append(Part(heading=kind.capitalize(), svg=pictures.curves_svg(lines, summary.shared_chance(drawn))))
    return Section("Training curves", "", parts)


def picture(runs: list[SavedRun], name: str) -> Section:
    """The pictures with this file name. Runs with the same picture show it once."""
    by_content: dict[bytes, list[SavedRun]] = {}
    for run in runs:
        if (run.path / name).exists() and _is_whole(run.path / name):
            by_content.setdefault((run.path / name).read_bytes(), []).append(run)
    title, text = PICTURES[name]
    figures = [
        Figure(title, base64.b64encode(content).decode(), [run.name for run in which])
        for content, which in by_content.items()
    ]
    return Section(title, text, [Part(figures=figures)] if figures else [])


def _is_whole(path: epath.Path) -> bool:
    """Whether a picture can be shown. Warns where it cannot."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("%s is damaged (%s): it is left out.", path, str(error).replace("\n", " "))
        return False
    return True


def confusions(runs: list[SavedRun]) -> Section:
    """Which classes are taken for which, in every evaluation of a pretrained encoder."""
    parts = []
    for run in runs:
        folders = [path for path in run.draws() if (path / predictions.NAME).exists()]
        if run.config.get("init") != "pretrained" or not folders:
            continue
        try:
            read = [predictions.read(path) for path in folders]
        except UserError as error:
            log.warning("%s", error)
            continue
        counts, names = np.sum([one.confusion() for one in read], axis=0), read[0].class_names
        if len(counts) <= LARGEST_MATRIX:
            parts.append(Part(heading=run.kind, run=run.name, matrix=_matrix(counts, names)))
        else:
            text = f"The {LISTED_CONFUSIONS} most frequent of the {len(names)} classes' confusions."
            parts.append(Part(heading=run.kind, run=run.name, text=text, table=_most_frequent(counts, names)))
    text = (
        "Rows are the true classes, columns the predicted ones: % of the row's images, over all subsets of the labels."
    )
    return Section("Confusion matrix", text, parts)


def _matrix(counts: np.ndarray, names: list[str]) -> Matrix:
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        list(zip(map(int, row), map(float, shares), strict=True)) for row, shares in zip(counts, percent, strict=True)
    ]
    return Matrix(names, rows)


def _most_frequent(counts: np.ndarray, names: list[str]) -> Table:
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    rows: list[list[Cell | str]] = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]:
        true, taken = divmod(int(place), len(counts))
        share = 100 * wrong[true, taken] / max(counts[true].sum(), 1)
        rows.append([names[true], names[taken], f"{wrong[true, taken]}", f"{share:.0f}"])
    return Table(["class", "taken for", "images", "% of the class"], rows)


def configs(runs: list[SavedRun]) -> Section:
    """In which fields the configs of a kind differ, and all fields of each run."""
    parts = []
    for kind in (known.title for known in KINDS.values()):
        mine = [run for run in runs if run.kind == kind]
        if not mine:
            continue
        fields = list(dict.fromkeys(field for run in mine for field in run.config))
        differing = [field for field in fields if len({json.dumps(run.config.get(field)) for run in mine}) > 1]
        table = Table(
            ["differs in", *(run.name for run in mine)],
            [[Cell(field, style="code"), *(_value(run.config.get(field)) for run in mine)] for field in differing],
        )
        details = [
            (
                run.name,
                Table(
                    ["field", "value"],
                    [[Cell(field, style="code"), _value(value)] for field, value in sorted(run.config.items())],
                ),
            )
            for run in mine
        ]
        parts.append(Part(heading=kind.capitalize(), table=table if len(mine) > 1 else None, details=details))
    return Section("Configs", "", parts)


def _value(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
