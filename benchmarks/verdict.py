"""Hold the verdict without labels to account: many small runs of unlike quality, and their linear probes.

    python -m benchmarks.verdict --output=DIR                      # the digits, which need no download
    python -m benchmarks.verdict --output=DIR --images=CIFAR10     # and a folder with train/CLASS/* and test/CLASS/*

Trains the runs of `benchmarks.verdict_runs`, each in a process, and evaluates each with a linear probe. Stages that are
finished are not run again, so the same command continues after an interruption; several of them may share the work by
`--only`. A run whose loss becomes non-finite counts with its last good checkpoint, if it has one.

Of the folder, 4,000 training and 2,000 test images are copied to the output: the first ones of each class.
"""

import argparse
import fnmatch
import json
import pathlib
import random
import shutil
import subprocess
import sys

from benchmarks import verdict_runs
from benchmarks.harness import ROOT

NON_FINITE = 3
TRAIN_IMAGES, TEST_IMAGES = 4000, 2000


def stage(workdir: pathlib.Path, command: list[str]) -> bool:
    """Run a command unless it is finished; return whether there is a result. Its output goes to WORKDIR.log."""
    if (workdir / "results.json").exists():
        return True
    if (workdir / "failed.json").exists():
        return False
    workdir.mkdir(parents=True, exist_ok=True)
    with open(f"{workdir}.log", "a") as log:
        code = subprocess.run(
            [sys.executable, "-m", *command, f"--workdir={workdir}"], cwd=ROOT, stdout=log, stderr=log
        ).returncode
    if code not in (0, NON_FINITE):
        raise SystemExit(f"{workdir}: exit code {code}, see {workdir}.log")
    if code == NON_FINITE:
        (workdir / "failed.json").write_text(json.dumps({"exit_code": code}))
    return code == 0


def train(run: verdict_runs.Run, output: pathlib.Path) -> None:
    """Pretrain and probe."""
    place = output / run.place
    cache = f"--compilation_cache={output / 'compilation_cache'}"
    done = stage(place / "pretrain", ["simclr_jax.pretrain", *run.flags(), cache])
    if done or any((place / "pretrain" / "checkpoints").glob("[0-9]*")):
        probe = ["simclr_jax.linear_probe", "--config=configs/linear_probe.py:lbfgs_quick", cache]
        stage(place / "probe", [*probe, f"--pretrained={place / 'pretrain'}"])


def subset(images: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """Copy the first images of each class, in the order of their names, unless that is done."""
    for split, total in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        source = images / split if (images / split).exists() else images / "val"
        classes = sorted(folder for folder in source.iterdir() if folder.is_dir())
        for of_class in classes:
            (copy / split / of_class.name).mkdir(parents=True, exist_ok=True)
            for file in sorted(of_class.iterdir())[: total // len(classes)]:
                target = copy / split / of_class.name / file.name
                if not target.exists():
                    shutil.copyfile(file, target)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for all runs and the results")
    parser.add_argument("--images", type=pathlib.Path, action="append", default=[], help="folder with train/ and test/")
    parser.add_argument("--only", default="*", help="only these runs, as in 'digits/*'")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    runs = verdict_runs.digits()
    for images in arguments.images:
        name = images.absolute().name
        runs += verdict_runs.folder(name, subset(images, output / "images" / name))
    chosen = [run for run in runs if fnmatch.fnmatch(str(run.place), arguments.only)]
    random.Random(0).shuffle(chosen)  # so that a sweep that is stopped early has runs of every kind
    for number, run in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {run.place}", flush=True)
        train(run, output)


if __name__ == "__main__":
    main()
