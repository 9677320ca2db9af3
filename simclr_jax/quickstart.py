"""The whole method on the embedded digits, in minutes: does pretraining help?

    make quickstart          (or: python -m simclr_jax.quickstart [WORKDIR])

Runs and prints one command after the other and ends with a table. The same command again continues.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("quickstart")  # answers --help and mistakes before the imports below; does not return


import pathlib
import shlex
import time

from absl import flags

from simclr_jax.config import CONFIGS
from simclr_jax.runtime import distributed
from simclr_jax.runtime import run_monitor

DRAWS = (0, 1, 2, 3, 4)


def command(name: str, *words: str) -> dict:
    """Prints a command line and runs it in this process."""
    print(f"\n$ python -m simclr_jax.{name} {shlex.join(words)}", flush=True)
    return cli.call(name, *words)


def run(values: flags.FlagValues) -> None:
    """Runs every command of the quickstart and prints the table."""
    began = time.monotonic()
    workdir = pathlib.Path(values["workdir"].value)
    distributed.initialize()
    run_monitor.use_compilation_cache(str(workdir / "compilation_cache"))
    configs = CONFIGS
    if configs.is_relative_to(pathlib.Path.cwd()):  # so that the printed commands read well
        configs = configs.relative_to(pathlib.Path.cwd())
    pretrained = f"--pretrained={workdir}/pretrain"
    untrained = "--config.init=random"

    pretraining = command("pretrain", f"--config={configs}/digits.py", f"--workdir={workdir}/pretrain")
    rows = []

    def compare(name: str, command_name: str, folder: str, labels: str, ours: list[str], theirs: list[str]) -> None:
        with_it = command(command_name, pretrained, f"--workdir={workdir}/{folder}", *ours)
        without = command(command_name, pretrained, f"--workdir={workdir}/{folder}_untrained", *theirs, untrained)
        rows.append((name, labels, with_it, without))

    l2 = ["--config.lbfgs.l2_values=12"]
    compare("linear probe, frozen encoder", "linear_probe", "linear_probe", "all 1,437", l2, l2)
    compare("20 nearest neighbours", "knn", "knn", "all 1,437", [], [])
    draws = f"--config.label_seeds={','.join(map(str, DRAWS))}"
    for fraction, labels, baseline_rate in (("0.01", "1 %: 10", 0.1), ("0.1", "10 %: 140", 0.3)):
        recipe = f"--config={configs}/digits_finetune.py:{fraction}"
        # Each with the learning rate that suits it: the baseline would be far worse with the pretrained network's.
        recipes = [recipe, draws], [f"{recipe},learning_rate={baseline_rate}", draws]
        compare("fine-tuning, whole network", "finetune", f"finetune_{fraction}", labels, *recipes)

    command("report", f"--workdirs={workdir}", f"--output={workdir}/report.html")
    print(_table(rows, pretraining, workdir, time.monotonic() - began))


def _cell(results: dict) -> str:
    spread = f" +- {100 * results['top1_std']:.1f}" if len(results["draws"]) > 1 else ""
    return f"{100 * results['top1']:.1f}{spread}"


def _table(rows: list[tuple], pretraining: dict, workdir: pathlib.Path, seconds: float) -> str:
    lines = [
        "",
        "Did pretraining help? Top-1 accuracy in %, on 360 test images of handwritten digits (10 classes)",
        f"{'':30} {'labels':>10} {'pretrained':>14} {'untrained':>14} {'gain':>7}",
    ]
    for name, labels, ours, other in rows:
        gain = 100 * (ours["top1"] - other["top1"])
        lines.append(f"{name:30} {labels:>10} {_cell(ours):>14} {_cell(other):>14} {gain:>+7.1f}")
    files = {
        "report.html": "everything on one page, for a browser",
        "pretrain/views.png": "augmented view pairs: what the network saw",
        "pretrain/curves.png": "training curves",
        "knn/embedding_map.png": "2-D map of the test embeddings, coloured by class",
        "pretrain/checkpoints": "the encoder, for linear_probe, finetune and knn",
    }
    lines += [
        "",
        "pretrained: SimCLR on the 1,437 training images without their labels. untrained: the same network with random",
        "weights; for fine-tuning this is training from scratch, with its own learning rate. +-: standard deviation over",
        f"{len(DRAWS)} subsets of the labels.",
        "",
        f"Pretraining took {pretraining['seconds']:.0f} s, everything {seconds:.0f} s. Look at:",
    ]
    lines += [f"  {workdir / file!s:42} {what}" for file, what in files.items()]
    return "\n".join(lines)
