"""Write imported weights as the workdir of a run: of pretraining, or with a classifier of fine-tuning."""

import datetime
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.infer import unflatten
from simclr_jax.runtime import files
from simclr_jax.training import checkpoint
from simclr_jax.workdir import writers

RECORD = "import.json"


def check_workdir(workdir: epath.Path) -> None:
    """Refuses a workdir that holds a run."""
    for name in ("config.json", checkpoint.FOLDER):
        if (workdir / name).exists():
            raise UserError(f"--workdir={workdir} holds a run already ({name}): choose a new folder.")


def config_of(weights: Weights, classifier_input: str, own_checkpoint: epath.Path) -> ConfigDict:
    """The config of a run with these weights.

    Without a classifier it is one of pretraining, with one of fine-tuning. That also has the block `head`, and names itself as
    its pretraining run, because the projection head is in the same checkpoint.
    """
    if weights.classes is None:
        return weights.config
    config = config_lib.finetune()
    for block in ("model", "data"):
        for key, value in weights.config[block].items():
            config[block][key] = value
    config.features = classifier_input
    config.pretrained = str(own_checkpoint)
    with config.unlocked():
        config.head = weights.config.head
    return config


def write(weights: Weights, classifier_input: str, workdir: epath.Path, record: dict[str, Any]) -> ConfigDict:
    """Writes checkpoint, config.json, environment.json and import.json; returns the config.

    Args:
      weights: of the network.
      classifier_input: "h", "g1", ... or "z".
      workdir: without a run in it.
      record: of the import, for import.json.
    """
    own_checkpoint = files.absolute(workdir / checkpoint.FOLDER / str(weights.step))
    config = config_of(weights, classifier_input, own_checkpoint)
    flat = weights.tensors
    parts: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, tensor in flat.items():
        parts["batch_stats" if name.endswith(("/mean", "/var")) else "params"][name] = tensor
    workdir.mkdir(parents=True, exist_ok=True)
    variables = unflatten(parts["params"]), unflatten(parts["batch_stats"])
    checkpoint.write(workdir, config, weights.step, variables)
    writers.write_atomically(workdir / RECORD, json.dumps(record, indent=2) + "\n")
    writers.write_config(workdir, config, datetime.datetime.now(datetime.UTC))
    return config
