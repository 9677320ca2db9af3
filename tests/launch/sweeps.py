"""What the tests of sweeps share: a small sweep, and stages that are as if they had run."""

import json

from launch import sweep
from launch import sweep_file
from simclr_jax.config import saved as saved_config

TEMPERATURES = """
'''Temperatures.'''
def sweep():
    for temperature in (0.1, 0.5):
        yield {
            "run": "pretrain --config=configs/digits.py",
            "config.loss.temperature": temperature,
            "then": {"knn": "knn --config.neighbours=5"},
        }
"""
RUN = "pretrain --config=configs/digits.py"
FIELD = {"config.loss.temperature": 0.1}


def load(write, text=TEMPERATURES, workdir="W"):
    return sweep_file.load(write(text), str(workdir)).runs


def yielding(**item):
    return f"def sweep():\n    yield {item!r}\n"


def written_config(stage):
    """The config.json that the binary would write."""
    config = stage.config.copy_and_resolve_references()
    if stage.binary != "pretrain":
        config.pretrained = str(stage.workdir.parent / "pretrain" / "checkpoints" / "9")
        config.data.update(source="digits", train_split="train", image_size=16, truncated_jpeg="skip")
    config.data.reduced_decode = True
    return saved_config.to_json(config)


def finish(stage, top1=0.5, **results):
    """As if the binary had run."""
    stage.workdir.mkdir(parents=True)
    (stage.workdir / "config.json").write_text(written_config(stage))
    (stage.workdir / "results.json").write_text(json.dumps({"n": 360, "top1": top1, "draws": []} | results))


def call(*arguments):
    return sweep.run(["sweep", *arguments])
