"""Hold the verdict without labels to account: many small runs of unlike quality, and their linear probes.

    python -m benchmarks.verdict --output=DIR                      # the digits, which need no download
    python -m benchmarks.verdict --output=DIR --images=CIFAR10     # and a folder with train/CLASS/* and test/CLASS/*
    python -m benchmarks.verdict --output=DIR --images=CIFAR10 --collect     # only the tables, of what is finished

Trains the runs of `benchmarks.verdict_runs`, evaluates each with a linear probe, and examines each with `simclr_jax.verdict`,
which sees no label. Then it writes runs.csv, a line for each run, and correlations.md: Spearman's rank correlation of every
measure, and of the score, with the accuracy of the linear probe.

Stages that are finished are not run again, so the same command continues after an interruption; several of them may share the
work by `--only`. A run whose loss becomes non-finite counts with its last good checkpoint, if it has one. Of the folder, 4,000
training and 2,000 test images are copied to the output: the first ones of each class.
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
from benchmarks import verdict_table
from benchmarks.harness import ROOT

USER_ERROR, NON_FINITE = 2, 3
TRAIN_IMAGES, TEST_IMAGES = 4000, 2000


def stage(workdir: pathlib.Path, result: str, command: list[str]) -> bool:
    """Run a command unless it is finished; return whether there is a result. Its output goes to WORKDIR.log.

    A non-finite loss, and representations that are not finite, are an outcome too: failed.json remembers them.
    """
    if (workdir / result).exists():
        return True
    if (workdir / "failed.json").exists():
        return False
    workdir.mkdir(parents=True, exist_ok=True)
    with open(f"{workdir}.log", "a") as log:
        words = [sys.executable, "-m", *command, f"--workdir={workdir}"]
        code = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log).returncode
    if code == NON_FINITE or (code == USER_ERROR and "not finite" in pathlib.Path(f"{workdir}.log").read_text()):
        (workdir / "failed.json").write_text(json.dumps({"exit_code": code}))
    elif code != 0:
        raise SystemExit(f"{workdir}: exit code {code}, see {workdir}.log")
    return code == 0


def train(run: verdict_runs.Run, output: pathlib.Path) -> bool:
    """Pretrain and probe; return whether there is an encoder."""
    place = output / run.place
    cache = f"--compilation_cache={output / 'compilation_cache'}"
    done = stage(place / "pretrain", "results.json", ["simclr_jax.pretrain", *run.flags(), cache])
    if not done and not any((place / "pretrain" / "checkpoints").glob("[0-9]*")):
        return False
    probe = ["simclr_jax.linear_probe", "--config=configs/linear_probe.py:lbfgs_quick", cache]
    probe.append(f"--pretrained={place / 'pretrain'}")
    stage(place / "probe", "results.json", probe)
    untrained = output / run.dataset / verdict_table.UNTRAINED / "probe"
    stage(untrained, "results.json", [*probe, "--config.init=random"])
    return True


def examine(run: verdict_runs.Run, output: pathlib.Path) -> None:
    """The verdict, without the table of augmentations."""
    place = output / run.place
    command = ["simclr_jax.verdict", f"--pretrained={place / 'pretrain'}", "--op_images=0"]
    stage(place / "verdict", "verdict.json", [*command, f"--compilation_cache={output / 'compilation_cache'}"])


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
    parser.add_argument("--stage", choices=["train", "examine", "all"], default="all", help="what to do with each run")
    parser.add_argument("--collect", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    runs = verdict_runs.digits()
    for images in arguments.images:
        name = images.absolute().name
        runs += verdict_runs.folder(name, subset(images, output / "images" / name))
    chosen = [run for run in runs if fnmatch.fnmatch(str(run.place), arguments.only)]
    random.Random(0).shuffle(chosen)  # so that a sweep that is stopped early has runs of every kind
    for number, run in enumerate([] if arguments.collect else chosen, 1):
        print(f"[{number}/{len(chosen)}] {run.place}", flush=True)
        if train(run, output) and arguments.stage != "train":
            examine(run, output)
    print(verdict_table.write(output, runs))


if __name__ == "__main__":
    main()
