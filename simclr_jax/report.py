"""One page about some runs: results against baselines, curves, pictures, confusions, and how their configs differ.

    python -m simclr_jax.report --workdirs=runs/quickstart                                 # all runs in a folder
    python -m simclr_jax.report --workdirs=runs/a,runs/a_probe,runs/b --output=a_and_b.html

Reads what the binaries have written to their workdirs, at any depth below those that are named, and writes one HTML file
that needs nothing else: no server, no network, no script. Nothing is computed anew, so no accelerator is needed; a run that
still goes on is shown as far as it is.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("report")  # answers --help and mistakes before the imports below; does not return


import base64
import datetime
import html
import json
import logging
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from simclr_jax.config import KINDS
from simclr_jax.errors import UserError
from simclr_jax.reporting import pictures
from simclr_jax.workdir import files
from simclr_jax.workdir import predictions
from simclr_jax.workdir import runs as saved_runs
from simclr_jax.workdir import writers
from simclr_jax.workdir.runs import SavedRun

log = logging.getLogger("simclr_jax")

# Evaluations that have tables of their own.
OTHER_TABLES = ("transform probe", "transfer")
# With more classes than this, the worst confusions are listed instead of the matrix.
LARGEST_MATRIX = 30

# The parts of the page, each HTML text; "" where there is nothing to show.


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML already; all but the first column are numbers or short."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _top1(run: SavedRun | None) -> str:
    if run is None or run.results is None:
        return ""
    spread = run.results.get("top1_std") or 0.0
    return _percent(run.results["top1"]) + (f" &plusmn; {100 * spread:.1f}" if spread else "")


def _labels(run: SavedRun) -> str:
    draws = (run.results or {}).get("draws") or []
    return f"{draws[0]['labels']:,}" + (f" &times; {len(draws)} draws" if len(draws) > 1 else "") if draws else ""


def _results(runs: list[SavedRun]) -> str:
    runs = [run for run in runs if run.kind not in OTHER_TABLES]
    rows = []
    pairs = saved_runs.baselines(runs)
    for run, other in pairs:
        gain = ""
        if run.results and other and other.results:
            gain = f"{100 * (run.results['top1'] - other.results['top1']):+.1f}"
        what = run.kind + ("" if run.config["features"] == "h" else f" of {run.config['features']}")
        top5, per_class = (_percent((run.results or {}).get(name)) for name in ("top5", "mean_per_class"))
        done = _top1(run) or "not done"
        rows.append([_link(run), what, _labels(run), f"<b>{done}</b>", _top1(other), gain, top5, per_class])
    matched = {other.name for _, other in pairs if other}
    for run in runs:
        if run.config.get("init") == "random" and run.name not in matched:
            rows.append([_link(run), f"{run.kind}, untrained", _labels(run), "", _top1(run) or "not done", "", "", ""])
    if not rows:
        return ""
    header = ["run", "evaluation", "labels", "top-1, %", "untrained", "gain", "top-5, %", "mean per class, %"]
    text = (
        "<p>On the test images. <i>Untrained</i> is the same evaluation of the same network with random weights (fine-tuned: "
        "trained from scratch); &plusmn; is the standard deviation over draws of the labels.</p>"
    )
    return _section("Results", text + _table(header, rows))


def _transfer(runs: list[SavedRun]) -> str:
    rows = []
    for run in (run for run in runs if run.kind == "transfer" and run.results):
        data = run.config["data.name"] or run.config["data.root"] or run.config["data.source"]
        found = run.results
        shares = [f"<b>{_percent(found[found['metric']])}</b>", _percent(found["val"])]
        rows.append(
            [_link(run), _escape(data), found["protocol"], found["init"], found["metric"], *shares, f"{found['n']:,}"]
        )
    header = ["run", "data", "protocol", "encoder", "measure", "test, %", "validation, %", "test images"]
    return _section("Transfer", _table(header, rows)) if rows else ""


def _transforms(runs: list[SavedRun]) -> str:
    probes = [run for run in runs if run.kind == "transform probe" and run.results]
    if not probes:
        return ""
    names = list(dict.fromkeys(name for run in probes for name in run.config["transforms"].split()))
    rows = [
        [_link(run), run.config["features"], *(_percent(run.results.get(name)) for name in names)] for run in probes
    ]
    text = "<p>How often it is told from the features how an image was transformed, in %.</p>"
    return _section("Transformations", text + _table(["run", "features", *names], rows))


def _pretraining(runs: list[SavedRun]) -> str:
    rows = []
    for run in (run for run in runs if run.kind == "pretraining"):
        config, last = run.config, next((line for line in reversed(run.metrics) if "loss" in line), {})
        network = f"ResNet-{config['model.depth']} ({config['model.width']:g}x)"
        data = config["data.name"] or config["data.root"] or config["data.source"]
        state = f"{run.results['seconds']:,.0f} s" if run.results else f"at step {last.get('step', 0)}"
        numbers = [
            f"{last[key]:.3f}" if key in last else "" for key in ("loss", "contrastive_top1", "contrastive_entropy")
        ]
        top1 = _percent((run.results or {}).get("top1"))
        setting = [network, _escape(data), f"{config['epochs']:g}", f"{config['batch_size']:,}"]
        rows.append([_link(run), *setting, state, *numbers, top1])
    if not rows:
        return ""
    header = [
        "run",
        "network",
        "images",
        "epochs",
        "batch",
        "time",
        "loss",
        "contrastive top-1",
        "entropy",
        "online top-1, %",
    ]
    return _section("Pretraining", _table(header, rows))


def _curves(runs: list[SavedRun]) -> str:
    parts = []
    for kind in (known.title for known in KINDS.values()):
        lines = {}
        for run in (run for run in runs if run.kind == kind):
            folders = [run.path, *run.draws()[:1]]
            read = [
                writers.read_metrics(path / "metrics.jsonl") for path in folders if (path / "metrics.jsonl").exists()
            ]
            longest = max(read, key=len, default=[])
            if len(longest) > 1:
                lines[run.name] = longest
        if lines:
            parts.append(f"<h3>{kind.capitalize()}</h3><div class=wide>{pictures.curves_svg(lines)}</div>")
    return _section("Training curves", "".join(parts)) if parts else ""


def _pictures(runs: list[SavedRun]) -> str:
    shown = {
        "views.png": ("Augmented views", "Pairs that the network had to match."),
        "neighbours.png": (
            "Nearest neighbours",
            "Held-out images, and the training images nearest to them; red: another class.",
        ),
        "embedding_map.png": ("Map of the embeddings", "Test images in two dimensions, by t-SNE, coloured by class."),
    }
    sections = []
    for name, (title, text) in shown.items():
        found: dict[bytes, list[SavedRun]] = {}  # runs with the same picture show it once
        for run in runs:
            if (run.path / name).exists():
                found.setdefault((run.path / name).read_bytes(), []).append(run)
        figures = "".join(
            f'<figure><img alt="{title} of {_escape(which[0].name)}" '
            f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
            f"<figcaption>{', '.join(map(_link, which))}</figcaption></figure>"
            for content, which in found.items()
        )
        if found:
            sections.append(_section(title, f"<p>{text}</p>{figures}"))
    return "".join(sections)


def _confusions(runs: list[SavedRun]) -> str:
    parts = []
    for run in runs:
        files_there = [path for path in run.draws() if (path / predictions.NAME).exists()]
        if run.config.get("init") != "pretrained" or not files_there:
            continue
        made = [predictions.read(path) for path in files_there]
        counts = sum(one.confusion() for one in made)
        table = _matrix if len(counts) <= LARGEST_MATRIX else _worst
        parts.append(f"<h3>{_link(run)}: {run.kind}</h3>{table(counts, made[0].class_names)}")
    text = "<p>Rows are the true classes, columns what was predicted: % of the row's images, over all draws of the labels.</p>"
    return _section("Confusion matrix", text + "".join(parts)) if parts else ""


def _matrix(counts: np.ndarray, names: list[str]) -> str:
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def cell(row: int, column: int) -> str:
        share = shares[row, column]
        colour = "34, 120, 70" if row == column else "190, 50, 40"
        title = f"{names[row]} taken for {names[column]}: {counts[row, column]} of {counts[row].sum()}"
        style = f"background: rgba({colour}, {min(share / 100 * (1 if row == column else 2.5), 0.9):.2f})"
        return f'<td style="{style}" title="{_escape(title)}">{f"{share:.0f}" if counts[row, column] else ""}</td>'

    classes = range(len(names))
    head = "".join(f"<th class=turned><span>{_escape(name)}</span></th>" for name in names)
    body = "".join(
        f"<tr><th>{_escape(names[row])}</th>{''.join(cell(row, at) for at in classes)}</tr>" for row in classes
    )
    return f"<div class=wide><table class=matrix><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _worst(counts: np.ndarray, names: list[str], number: int = 20) -> str:
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:number]:
        true, taken = divmod(int(place), len(counts))
        share = 100 * wrong[true, taken] / max(counts[true].sum(), 1)
        rows.append([_escape(names[true]), _escape(names[taken]), f"{wrong[true, taken]}", f"{share:.0f}"])
    text = f"<p>The {number} most frequent of the {len(names)} classes' confusions.</p>"
    return text + _table(["class", "taken for", "images", "% of the class"], rows)


def _configs(runs: list[SavedRun]) -> str:
    parts = []
    for kind in (known.title for known in KINDS.values()):
        mine = [run for run in runs if run.kind == kind]
        if not mine:
            continue
        fields = list(dict.fromkeys(field for run in mine for field in run.config))
        differing = [field for field in fields if len({json.dumps(run.config.get(field)) for run in mine}) > 1]
        parts.append(f"<h3>{kind.capitalize()}</h3>")
        if len(mine) > 1:
            rows = [[f"<code>{field}</code>", *(_value(run.config.get(field)) for run in mine)] for field in differing]
            parts.append(_table(["differs in", *(_escape(run.name) for run in mine)], rows))
        for run in mine:
            rows = [[f"<code>{field}</code>", _value(value)] for field, value in sorted(run.config.items())]
            table = _table(["field", "value"], rows)
            parts.append(
                f'<details id="{_anchor(run)}"><summary>{_escape(run.name)}: all fields</summary>{table}</details>'
            )
    return _section("Configs", "".join(parts))


def _value(value: Any) -> str:
    return _escape("" if value is None else json.dumps(value).strip('"'))


def _escape(text: Any) -> str:
    return html.escape(str(text))


def _anchor(run: SavedRun) -> str:
    return "config-" + _escape(run.name)


def _link(run: SavedRun) -> str:
    return f'<a href="#{_anchor(run)}">{_escape(run.name)}</a>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ddd }
h3 { font-size: 1em; margin-bottom: .4em } .subtitle { color: #666; margin-top: 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th { text-align: left; font-weight: 600; color: #555; font-size: .88em }
th, td { padding: .25em .7em; border-bottom: 1px solid #eee; vertical-align: top }
a { color: #1a5fb4; text-decoration: none } a:hover { text-decoration: underline }
img, svg { max-width: 100%; height: auto } figure { margin: 1em 0 } figcaption { color: #666; font-size: .9em }
.matrix td { text-align: center; min-width: 1.6em; padding: .2em; border: 1px solid #fff }
.matrix th { border: 0; padding: .1em .5em } .turned span { writing-mode: vertical-rl; transform: rotate(180deg) }
code { font-size: .9em } summary { cursor: pointer; color: #1a5fb4 } details { margin: .4em 0 }
"""


def page(runs: list[SavedRun], title: str) -> str:
    """The whole document."""
    sections = (_results, _transfer, _transforms, _pretraining, _curves, _pictures, _confusions, _configs)
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    unfinished = sum(run.results is None for run in runs)
    state = f"{len(runs)} runs" + (f", {unfinished} of them not done" if unfinished else "")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{_escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f"<h1>{_escape(title)}</h1><p class=subtitle>{state}. simclr_jax, {made}.</p>"
        f"{''.join(section(runs) for section in sections)}</body></html>\n"
    )


def write(folders: list[str], output: str, title: str | None = None) -> list[SavedRun]:
    """Writes the page about all runs in some folders, and returns them."""
    runs = saved_runs.find(folders)
    target = epath.Path(output)
    if not target.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {target.parent}.")
    files.write_atomically(target, page(runs, title or ", ".join(folders)).encode())
    log.info("%s: %d runs, %.1f MB.", output, len(runs), target.stat().length / 1e6)
    return runs


def run(values: flags.FlagValues) -> list[SavedRun]:
    """Writes the report of a command line."""
    folders = [folder for value in values["workdirs"].value for folder in split_folders(value)]
    return write(folders, values["output"].value, values["title"].value)


def split_folders(value: str) -> list[str]:
    """Folders separated by commas; a folder whose name has commas is itself."""
    return [value] if epath.Path(value).is_dir() else value.split(",")
