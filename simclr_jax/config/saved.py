"""Saved configs: flat fields, JSON, configs of older versions, differences between two runs."""

from collections.abc import Iterator
import contextlib
import json
from typing import Any

import ml_collections

from simclr_jax.config.field import NETWORK_OF_THE_REFERENCE
from simclr_jax.config.kinds import KINDS
from simclr_jax.errors import UserError

# Fields that were renamed. Saved configs with the old name are still read.
RENAMED = {"augment.noise_deviation": "augment.noise_std", "noise_deviation": "noise_std"}

# A saved config without `kind` is of an older version. Its kind follows from a field that only this kind had.
_KIND_OF_FIELD = {
    "loss": "pretrain",
    "metric": "transfer",
    "protocol": "linear_probe",
    "neighbours": "knn",
    "transforms": "transform_probe",
    "teacher": "distill",
    "min_steps": "finetune",
}


def upgrade(values: Any) -> dict[str, Any]:
    """A saved config, as JSON has it, with `kind` and today's names.

    Raises:
      UserError: where it is the config of no kind of run, or a block of it has no fields.
    """
    if not isinstance(values, dict):
        raise UserError(f"not a config of this program: it has no fields, but is {str(values)[:40]!r}.")
    kind = values.get("kind") or next((kind for field, kind in _KIND_OF_FIELD.items() if field in values), None)
    if kind is None:
        raise UserError(f"not a config of this program: it has none of kind, {', '.join(_KIND_OF_FIELD)}.")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"not a config of this program: kind is {kind!r}, not one of {', '.join(KINDS)}.")
    for block in ("data", "model", *(old.partition(".")[0] for old in RENAMED if "." in old)):
        if block in values and not isinstance(values[block], dict):
            raise UserError(f"not a config of this program: {block} has no fields, but is {str(values[block])[:40]!r}.")
    values = json.loads(json.dumps(values)) | {"kind": kind}
    for old, new in RENAMED.items():
        *blocks, name = old.split(".")
        block = values
        for key in blocks:
            block = block.get(key, {})
        if name in block:
            block[new.split(".")[-1]] = block.pop(name)
    if "model" in values:
        # A saved network without these fields is the reference's, of an evaluation too.
        newer = {
            key: list(value) if isinstance(value, tuple) else value for key, value in NETWORK_OF_THE_REFERENCE.items()
        }
        values["model"] = newer | values["model"]
    if "data" in values:
        # Runs without these fields decoded every image at its full size, and skipped JPEG files that are cut off.
        values["data"] = {"reduced_decode": False, "truncated_jpeg": "skip"} | values["data"]
    return values


def settle_decoding(config: ml_collections.ConfigDict, earlier: ml_collections.ConfigDict | None) -> None:
    """Sets `data.reduced_decode` where it is unset, in place: as the run has it that this one continues, or True."""
    if config.data.reduced_decode is None:
        config.data.reduced_decode = earlier is None or earlier.data.reduced_decode is not False


def settle_as(config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict) -> None:
    """Takes from a saved config of the same run, in place, what a run settles itself: "auto", and how images are decoded."""
    settle_decoding(config, saved)
    for key, value in flatten(config).items():
        *blocks, name = key.split(".")
        block, of_saved = config, saved
        for part in blocks:
            block, of_saved = block[part], of_saved[part]
        if value == "auto" and name in of_saved:
            with config.ignore_type():  # from a word to a number
                block[name] = of_saved[name]


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.name": "lars", ...}` with tuples as lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def to_json(config: ml_collections.ConfigDict) -> str:
    """The text of a config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


# What to do about the damaged config.json of an evaluation, which is written before the results are.
WRITTEN_AGAIN = "move it away, and the same command of its run writes it again"


@contextlib.contextmanager
def damage_of(path: Any, remedy: str) -> Iterator[None]:
    """Names a config, and what to do, in the errors of the `with` block, which reads it.

    Raises:
      UserError: with both, and the reason.
    """
    try:
        yield
    except ValueError as error:  # also what is not UTF-8 or not JSON, and a `UserError` of `upgrade`
        raise UserError(f"{path} is damaged ({str(error).rstrip('.')}): {remedy}.") from error


def read(path: Any, defaults: ml_collections.ConfigDict, remedy: str = WRITTEN_AGAIN) -> ml_collections.ConfigDict:
    """The config in the JSON file `path`; see `from_dict`.

    Raises:
      UserError: where it is damaged, or of another program; with `remedy`, what to do about it.
    """
    with damage_of(path, remedy):
        return from_dict(json.loads(path.read_bytes()), defaults)


def fields_in(path: Any, remedy: str = WRITTEN_AGAIN) -> dict[str, Any]:
    """What a config.json of any kind of run has, with today's names; see `upgrade`.

    Raises:
      UserError: as `read`.
    """
    with damage_of(path, remedy):
        return upgrade(json.loads(path.read_bytes()))


def from_dict(values: Any, defaults: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A saved config on top of `defaults`, so that fields that are newer than it have their default values.

    Raises:
      UserError: where it is no saved config.
    """
    config = defaults.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():  # "auto" in place of a number
        _update(config, upgrade(values))
    return config


def _update(config: ml_collections.ConfigDict, values: dict) -> None:
    for key, value in values.items():
        of_block = isinstance(config.get(key), ml_collections.ConfigDict)
        if of_block and isinstance(value, dict):
            _update(config[key], value)
        elif of_block:
            raise UserError(f"not a config of this program: {key} has no fields, but is {str(value)[:40]!r}.")
        else:
            config[key] = tuple(value) if isinstance(value, list) else value


# Fields of `config.data` that say how images are prepared. An evaluation takes them from pretraining, also for other data.
OF_THE_PREPARATION = ("image_size", "eval_crop", "truncated_jpeg", "reduced_decode")

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
    """The fields that make a config another run than a saved one, a line for each."""
    new, old = flatten(config), flatten(saved)
    lines = []
    for key in sorted(new.keys() | old.keys()):
        if key.startswith(MAY_CHANGE) or new.get(key) == old.get(key):
            continue
        if key == "data.labels" and new.get(key) and old.get(key):  # the table may have moved with the folder
            continue
        lines.append(f"config.{key} is {new.get(key)!r}, but that run has {old.get(key)!r}")
    return lines


def refuse_another_run(folder: Any, differing: list[str], advice: str) -> None:
    """A clear error where `folder` holds another run.

    Args:
      folder: for the message.
      differing: the lines of `differences`; empty where it is the same run.
      advice: what to do about it.
    """
    if differing:
        raise UserError(f"{folder} holds another run:\n  " + "\n  ".join(differing) + f"\n{advice}")


def inherit(config: ml_collections.ConfigDict, pretrained: ml_collections.ConfigDict | None) -> None:
    """Fills the unset data and model fields of an evaluation's config, in place, from that of its pretraining."""
    other_source = config.data.source is not None and (
        pretrained is None or config.data.source != pretrained.data.source or config.data.name != pretrained.data.name
    )
    other_folder = config.data.root is not None and (pretrained is None or config.data.root != pretrained.data.root)
    for block in ("model", "data"):
        for key, value in config[block].items():
            # The splits and the folder of another data set do not apply to this one, nor labels to another folder.
            if other_source and block == "data" and key not in OF_THE_PREPARATION:
                continue
            if other_folder and block == "data" and key == "labels":
                continue
            if value is None and pretrained is not None:
                config[block][key] = pretrained[block].get(key)
    config.data.train_split = config.data.train_split or "train"
    config.data.truncated_jpeg = config.data.truncated_jpeg or "skip"
