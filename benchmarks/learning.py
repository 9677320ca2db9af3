"""Does this code learn as well as its peers? The same work by ours and by lightly, judged by the same linear probe.

    python -m benchmarks.learning --output=DIR --images=CIFAR10                        # both, three seeds each
    python -m benchmarks.learning --output=DIR --images=CIFAR10 --number=10000 --docs=docs

ResNet-18 with the CIFAR stem and a quarter of the width, at batch 256, by configs/folder.py and by `benchmarks.learning_peer`,
which runs in the peers' environment (`make peers`). Each seed is pretrained without labels; then a logistic regression by
L-BFGS is fitted to the frozen features of all training images, with the same choice of l2 for both. Writes learning.json to
the output, and with --docs the table of docs/results.md. What is finished is not run again, so the same command continues.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.pages import filled
from benchmarks.verdict import copy_first

PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PROBE = "configs/linear_probe.py:lbfgs_quick"
NAMES = {"ours": "simclr_jax", "lightly": "lightly"}


def ours(images: pathlib.Path, output: pathlib.Path, seed: int, epochs: float) -> dict[str, float]:
    """Pretrains and probes with the commands of this package."""
    fields = f"{images},size=32,depth=18,width=0.25,batch=256,epochs={epochs:g}"
    common = [f"--config.seed={seed}", "--config.online_classifier=false", f"--workdir={output}/pretrain"]
    _run(sys.executable, "-m", "simclr_jax.pretrain", f"--config=configs/folder.py:{fields}", *common)
    probe = [f"--config={PROBE}", f"--pretrained={output}/pretrain", f"--workdir={output}/probe"]
    _run(sys.executable, "-m", "simclr_jax.linear_probe", *probe)
    pretrained = json.loads((output / "pretrain" / "results.json").read_text())
    probed = json.loads((output / "probe" / "results.json").read_text())
    return {"top1": probed["top1"], "seconds": pretrained["seconds"], "loss": pretrained["loss"]}


def lightly(images: pathlib.Path, output: pathlib.Path, seed: int, epochs: float) -> dict[str, float]:
    """Pretrains in the peers' environment; probes with the logistic regression of this package."""
    import numpy as np

    from simclr_jax import config as config_lib
    from simclr_jax.evaluation import logistic_regression

    place = [f"--images={images}", f"--output={output}", f"--seed={seed}", f"--epochs={epochs:g}"]
    if not (output / "features.npz").exists():
        _run(str(PEERS_PYTHON), "-m", "benchmarks.learning_peer", *place)
    saved = np.load(output / "features.npz")
    lbfgs = config_lib.load(*PROBE.split(":")).lbfgs
    classifier, _ = logistic_regression.fit(saved["train"], saved["train_labels"].astype(np.int32), lbfgs, seed=0)
    scores = logistic_regression.scores(classifier, saved["test"], len(np.unique(saved["test_labels"])))
    top1 = logistic_regression.top1(scores, saved["test_labels"])
    return {"top1": top1, "seconds": float(saved["seconds"]), "loss": float(saved["loss"])}


def _run(*command: str) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def table(records: list[dict[str, Any]]) -> str:
    """The table of docs/results.md."""
    lines = ["| | seeds | linear top-1 | last loss | pretraining |", "| --- | --- | --- | --- | --- |"]
    for contender, name in NAMES.items():
        mine = [record for record in records if record["contender"] == contender]
        if not mine:
            continue
        top1 = [100 * record["top1"] for record in mine]
        spread = f" +- {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
        loss, seconds = (statistics.mean(record[key] for record in mine) for key in ("loss", "seconds"))
        lines.append(f"| {name} | {len(mine)} | {statistics.mean(top1):.1f}{spread} | {loss:.3f} | {seconds:,.0f} s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=pathlib.Path, required=True, help="folder with train/CLASS and test/CLASS, 32 px"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="for all runs and results")
    parser.add_argument("--number", type=int, help="train on this many, the first ones of each class (default: all)")
    parser.add_argument("--epochs", type=float, default=10, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--only", choices=NAMES, help="only this contender")
    parser.add_argument("--docs", type=pathlib.Path, help="whose results.md gets the table")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    images = arguments.images.resolve()
    if arguments.number:
        images = copy_first(images, output / "images", {"train": arguments.number, "test": None})
    path = output / "learning.json"
    records = json.loads(path.read_text()) if path.exists() else []
    for seed in range(arguments.seeds):
        for contender, measure in (("ours", ours), ("lightly", lightly)):
            known = any((record["contender"], record["seed"]) == (contender, seed) for record in records)
            if known or arguments.only not in (None, contender):
                continue
            measured = measure(images, output / f"{contender}_{seed}", seed, arguments.epochs)
            records.append({"contender": contender, "seed": seed} | measured)
            path.write_text(json.dumps(records, indent=1))
    print(table(records))
    if arguments.docs:
        page = arguments.docs / "results.md"
        page.write_text(filled(page.read_text(), table(records), "learning"))


if __name__ == "__main__":
    main()
