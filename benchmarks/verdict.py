"""Hold the verdict without labels to account: many small runs of unlike quality, and their linear probes.

    python -m benchmarks.verdict --output=DIR                      # the digits, which need no download
    python -m benchmarks.verdict --output=DIR --images=CIFAR10     # and a folder with train/CLASS/* and test/CLASS/*
    python -m benchmarks.verdict --output=DIR --images=CIFAR10 --collect --docs=docs     # only the tables, of what is finished

Trains the runs of `benchmarks.verdict_runs`, evaluates each with a linear probe, and examines each with `simclr_jax.verdict`,
which sees no label: a process for each run. Then it writes runs.csv, a line for each run, and correlations.md: Spearman's rank
correlation of every measure, and of the score, with the accuracy of the linear probe.

Stages that are finished are not run again, so the same command continues after an interruption; several of them may share the
work by `--only`. A run whose loss becomes non-finite counts with its last good checkpoint, if it has one. Of the folder, 4,000
training and 2,000 test images are copied to the output: the first ones of each class.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

from benchmarks import verdict_runs
from benchmarks import verdict_table
from benchmarks.harness import ROOT

IMAGES: dict[str, int | None] = {"train": 4000, "test": 2000}


def stage(workdir: pathlib.Path, result: str, command: str, *words: str) -> bool:
    """Run a command in this process unless it is finished; return whether there is a result.

    A non-finite loss, and representations that are not finite, are an outcome too: failed.json remembers them.
    """
    from simclr_jax import errors
    from simclr_jax.runtime import cli

    if (workdir / result).exists():
        return True
    if (workdir / "failed.json").exists():
        return False
    try:
        cli.call(command, *words, f"--workdir={workdir}")
    except (errors.NonFiniteLoss, errors.UserError) as error:
        if isinstance(error, errors.UserError) and "not finite" not in str(error):
            raise
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "failed.json").write_text(json.dumps({"error": str(error)}))
        return False
    return True


def evaluate(run: verdict_runs.Run, output: pathlib.Path) -> None:
    """Pretrain, probe and examine, in this process."""
    from simclr_jax.runtime import cli
    from simclr_jax.runtime import run_monitor

    cli.set_up_logging()
    run_monitor.use_compilation_cache(str(output / "compilation_cache"))
    place = output / run.place
    done = stage(place / "pretrain", "results.json", "pretrain", *run.flags())
    if not done and not any((place / "pretrain" / "checkpoints").glob("[0-9]*")):
        return
    pretrained = f"--pretrained={place / 'pretrain'}"
    probe = ("linear_probe", "--config=configs/linear_probe.py:lbfgs_quick", pretrained)
    stage(place / "probe", "results.json", *probe)
    stage(output / run.dataset / verdict_table.UNTRAINED / "probe", "results.json", *probe, "--config.init=random")
    stage(place / "verdict", "verdict.json", "verdict", pretrained, "--op_images=0")


def in_a_process(run: verdict_runs.Run, output: pathlib.Path) -> None:
    """`evaluate` in a new process, whose memory is freed when it ends; what it prints goes to a log beside the run."""
    place = output / run.place
    if (place / "verdict" / "verdict.json").exists() or list(place.glob("*/failed.json")):
        return
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.verdict", *sys.argv[1:], f"--one={run.place}"]
    with open(place / "log.txt", "a") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
    if code:
        raise SystemExit(f"{run.place}: exit code {code}, see {place / 'log.txt'}")


def copy_first(images: pathlib.Path, copy: pathlib.Path, total: dict[str, int | None]) -> pathlib.Path:
    """Copy the first images of each class, in the order of their names, unless that is done.

    Args:
      images: a folder with train/CLASS, and test/CLASS or val/CLASS.
      copy: the new folder.
      total: how many images of all classes, for "train" and "test"; None: all.
    """
    for split, number in total.items():
        source = images / split if (images / split).exists() else images / "val"
        classes = sorted(folder for folder in source.iterdir() if folder.is_dir())
        for of_class in classes:
            (copy / split / of_class.name).mkdir(parents=True, exist_ok=True)
            for file in sorted(of_class.iterdir())[: None if number is None else number // len(classes)]:
                target = copy / split / of_class.name / file.name
                if not target.exists():
                    shutil.copyfile(file, target)
    return copy


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for all runs and the results")
    parser.add_argument("--images", type=pathlib.Path, action="append", default=[], help="folder with train/ and test/")
    parser.add_argument("--only", default="*", help="only these runs, as in 'digits/*'")
    parser.add_argument("--collect", action="store_true", help="only write the tables")
    parser.add_argument(
        "--docs", type=pathlib.Path, help="also write the results to this folder's verdict.md and results/"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # this run, in this process
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    output = arguments.output.resolve()
    runs = verdict_runs.digits()
    for images in arguments.images:
        name = images.absolute().name
        runs += verdict_runs.folder(name, copy_first(images, output / "images" / name, IMAGES))
    if arguments.one:
        evaluate(next(run for run in runs if str(run.place) == arguments.one), output)
        sys.stdout.flush()
        os._exit(0)  # threads of the input pipeline may still read ahead
    chosen = [run for run in runs if fnmatch.fnmatch(str(run.place), arguments.only)]
    random.Random(0).shuffle(chosen)  # so that a sweep that is stopped early has runs of every kind
    for number, run in enumerate([] if arguments.collect else chosen, 1):
        print(f"[{number}/{len(chosen)}] {run.place}", flush=True)
        in_a_process(run, output)
    print(verdict_table.write(output, runs, arguments.docs))


if __name__ == "__main__":
    main()
