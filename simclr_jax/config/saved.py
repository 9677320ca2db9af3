"""Configs as runs keep them: one flat list of fields, JSON, reading what an older version wrote, comparing two runs."""

import json
from typing import Any

import ml_collections

from simclr_jax.errors import UserError


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.name": "lars", ...}` with tuples as lists, as JSON has them."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def to_json(config: ml_collections.ConfigDict) -> str:
    """The text of a config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def read(path: Any, defaults: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config in the JSON file `path`; see `from_dict`."""
    return from_dict(json.loads(path.read_text()), defaults)


def from_dict(values: dict, defaults: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A saved config on top of `defaults`, so that fields that are newer than the save have their default values."""
    config = defaults.copy_and_resolve_references()
    with config.unlocked():
        _update(config, values)
    return config


def _update(config: ml_collections.ConfigDict, values: dict) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and key in config:
            _update(config[key], value)
        else:
            config[key] = tuple(value) if isinstance(value, list) else value


# Fields that may change when a run is continued: they change neither the data order nor the numbers.
MAY_CHANGE = (
    "data.root",
    "data.max_bad_fraction",
    "log_every_steps",
    "checkpoint.",
    "mesh.",
    "evaluate_every_steps",
    "loss.method",
    "remat",
)


def differences(config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict) -> list[str]:
    """What differs between a config and a saved one and would make another run of it, a line for each field."""
    new, old = flatten(config), flatten(saved)
    lines = []
    for key in sorted(new.keys() | old.keys()):
        if key.startswith(MAY_CHANGE) or new.get(key) == old.get(key):
            continue
        lines.append(f"config.{key} is {new.get(key)!r}, but the checkpoint was written with {old.get(key)!r}")
    return lines


def refuse_another_run(folder: Any, differing: list[str], advice: str) -> None:
    """A clear error where `folder` holds another run.

    Args:
      folder: as it is told.
      differing: the lines of `differences`; without any, nothing happens.
      advice: what to do about it.
    """
    if differing:
        raise UserError(f"{folder} holds another run:\n  " + "\n  ".join(differing) + f"\n{advice}")


def inherit(config: ml_collections.ConfigDict, pretrained: ml_collections.ConfigDict | None) -> None:
    """Fills the unset data and model fields of an evaluation config, in place, from the pretraining config."""
    other_source = config.data.source is not None and (
        pretrained is None or config.data.source != pretrained.data.source or config.data.name != pretrained.data.name
    )
    for block in ("model", "data"):
        for key, value in config[block].items():
            # Another data set's splits and place say nothing about this one's.
            if other_source and block == "data" and key not in ("image_size", "eval_crop"):
                continue
            if value is None and pretrained is not None:
                config[block][key] = pretrained[block][key]
    if config.data.train_split is None:
        config.data.train_split = "train"
