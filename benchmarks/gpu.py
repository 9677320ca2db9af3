"""On a GPU: the training step and the loss beside PyTorch's on the same card, and CIFAR-10 until it has converged.

    python -m benchmarks.gpu --output=DIR                                       # step and loss
    python -m benchmarks.gpu --output=DIR --images=cifar10.npz --epochs=500     # and a training run on CIFAR-10

Needs JAX and PyTorch for the same GPU in this environment; neither TensorFlow nor torchvision. Each measurement runs in a
separate process. The same command continues, without measuring anything twice: with --seconds it begins nothing that would end
later, and stops the training run, which continues too. Writes gpu.json, and prints the tables.

- Step: forward, backward and update in bfloat16, on random pixels that are on the card. Ours is the step of
  `simclr_jax.pretrain`, with its metrics; it has LARS. PyTorch's has channels_last, autocast, a dense NT-Xent, and SGD with
  momentum, which is cheaper than LARS; in eager mode and with `torch.compile`.
- Loss: NT-Xent of dimension 128 in float32, forward and backward. PyTorch's matrix of logits does not fit for large batches.
- CIFAR-10: configs/cifar10.py with a ResNet-18 in bfloat16, the images in device memory; then a linear probe.
  CIFAR-10 as .npz: docs/folders.md. `--npz_of=FOLDER` makes the file of a folder with train/CLASS and test/CLASS.
"""

import argparse
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.gpu_contenders import ANSWER
from benchmarks.harness import ROOT
from benchmarks.harness import versions

# Depth, stem, side of the views, images in a step.
STEPS = {"ResNet-18, 32 px": (18, "cifar", 32, 1024), "ResNet-50, 224 px": (50, "imagenet", 224, 128)}
PAIRS = (4096, 8192, 16_384, 32_768, 65_536)
CONTENDERS = ("ours", "torch", "torch.compile")
# A measurement that is not begun if there is less time left.
LONGEST_S = 240


class Results:
    """What was measured, in gpu.json."""

    def __init__(self, output: pathlib.Path):
        self.path = output / "gpu.json"
        self.records: list[dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else []

    def of(self, **names: Any) -> dict[str, Any] | None:
        return next((one for one in self.records if names.items() <= one.items()), None)

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self.path.write_text(json.dumps(self.records, indent=1))
        print(json.dumps(record), flush=True)


def compare(results: Results, cases: list[tuple[str, str, list, int]], deadline: float) -> bool:
    """Measures what is missing: (what, case, options, repeats). Returns whether all of it is there."""
    for what, case, options, repeats in cases:
        for contender in CONTENDERS:
            if results.of(what=what, case=case, contender=contender):
                continue
            if time.monotonic() + LONGEST_S > deadline:
                return False
            question = json.dumps([what, contender, options, repeats])
            command = [sys.executable, "-m", "benchmarks.gpu_contenders", question]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            answer = next(line for line in reversed(done.stdout.splitlines()) if line.startswith(ANSWER))
            results.add({"what": what, "case": case, "contender": contender} | json.loads(answer.removeprefix(ANSWER)))
    return True


def train(output: pathlib.Path, images: pathlib.Path, epochs: float, deadline: float) -> dict[str, Any] | None:
    """Pretrains and probes on CIFAR-10, or continues. None: the time was over first."""
    config = f"configs/cifar10.py:depth=18,epochs={epochs:g},bfloat16=true"
    data = ["--config.data.source=folder", f"--config.data.root={images}", "--config.data.resident=true"]
    commands = {
        "pretrain": ["simclr_jax.pretrain", f"--config={config}", *data],
        "probe": [
            "simclr_jax.linear_probe",
            "--config=configs/linear_probe.py:lbfgs",
            f"--pretrained={output}/pretrain",
        ],
    }
    found: dict[str, Any] = {}
    for name, command in commands.items():
        finished = output / name / "results.json"
        if not finished.exists():
            process = subprocess.Popen([sys.executable, "-m", *command, f"--workdir={output}/{name}"], cwd=ROOT)
            try:
                process.wait(deadline - time.monotonic())
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)  # it saves, and ends
                process.wait()
            if not finished.exists():
                return None
        found[name] = json.loads(finished.read_text())
    logged = [json.loads(line) for line in (output / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in logged if "images_per_second" in line]
    return {
        "epochs": epochs,
        "seconds_per_epoch": 50_000 / statistics.median(rates),
        "hours": epochs * 50_000 / statistics.median(rates) / 3600,
        "loss": found["pretrain"]["loss"],
        "top1": found["probe"]["top1"],
    }


def table(records: list[dict[str, Any]]) -> str:
    """The tables of docs/benchmarks.md."""
    lines = [
        "| case | contender | ms | times as fast as ours | GiB | first call, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    ours = {one["case"]: one for one in records if one.get("contender") == "ours"}
    for one in records:
        if one["what"] == "cifar10":
            continue
        if "failed" in one:
            lines.append(f"| {one['case']} | {one['contender']} | {one['failed']} | | | |")
            continue
        ratio = ours[one["case"]]["seconds"] / one["seconds"] if "seconds" in ours.get(one["case"], {}) else None
        memory = "" if one["gib"] is None else f"{one['gib']:.1f}"
        ratio_text = "" if ratio is None or one["contender"] == "ours" else f"{ratio:.2f}"
        times = f"{1000 * one['seconds']:.1f} | {ratio_text} | {memory} | {one['first_s']:.0f}"
        lines.append(f"| {one['case']} | {one['contender']} | {times} |")
    for one in records:
        if one["what"] == "cifar10":
            lines += [
                "",
                f"CIFAR-10, ResNet-18, {one['epochs']:g} epochs: linear top-1 {100 * one['top1']:.1f} %, "
                f"{one['seconds_per_epoch']:.1f} s an epoch, {one['hours']:.2f} hours.",
            ]
    devices = sorted({one["device"] for one in records if "device" in one})
    return "\n".join([*lines, "", *(f"- {name}; {versions()}" for name in devices)])


def npz_of(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the images of a folder with train/CLASS and test/CLASS, decoded by Pillow, as one file of arrays."""
    from PIL import Image

    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        classes = sorted(path.name for path in (folder / split).iterdir() if path.is_dir())
        paths = [
            (path, label) for label, name in enumerate(classes) for path in sorted((folder / split / name).iterdir())
        ]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths])
        arrays[f"{split}_labels"] = np.array([label for _, label in paths])
        arrays["class_names"] = np.array(classes)
    np.savez_compressed(output, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, help="for results and checkpoints")
    parser.add_argument("--images", type=pathlib.Path, help="CIFAR-10 as .npz; without it nothing is trained")
    parser.add_argument("--epochs", type=float, default=500, help="of the training run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=86_400, help="end after about this long (default: a day)")
    parser.add_argument("--repeats", type=int, default=20, help="calls in a round (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=1, help="divides all batches, for a trial on a CPU")
    parser.add_argument("--npz_of", type=pathlib.Path, help="only make --images from this folder")
    arguments = parser.parse_args()
    if arguments.npz_of:
        if not arguments.images:
            parser.error("--npz_of needs --images, the file to write")
        npz_of(arguments.npz_of, arguments.images)
        return
    if not arguments.output:
        parser.error("--output is missing")
    deadline = time.monotonic() + arguments.seconds
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    results, scale = Results(output), arguments.scale
    cases: list[tuple[str, str, list, int]] = [
        (
            "step",
            f"{name}, {images // scale} images",
            [depth, stem, size, images // scale],
            arguments.repeats,
        )
        for name, (depth, stem, size, images) in STEPS.items()
    ]
    cases += [("loss", f"NT-Xent, {pairs // scale:,} pairs", [pairs // scale], arguments.repeats) for pairs in PAIRS]
    complete = compare(results, cases, deadline)
    if complete and arguments.images and not results.of(what="cifar10", epochs=arguments.epochs):
        trained = train(output, arguments.images.resolve(), arguments.epochs, deadline)
        complete = trained is not None
        if trained:
            results.add({"what": "cifar10", "case": "CIFAR-10"} | trained)
    print(table(results.records))
    if not complete:
        print("The time was over: the same command continues.")


if __name__ == "__main__":
    main()
