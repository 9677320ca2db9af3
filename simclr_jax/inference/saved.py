"""Find what a workdir holds for use: an encoder, perhaps its projection head, perhaps a classifier."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.runtime import hub
from simclr_jax.training import checkpoint
from simclr_jax.training.checkpoint import places
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import data_record
from simclr_jax.workdir import draws
from simclr_jax.workdir import predictions

# Runs that keep no weights of their own.
_WITHOUT_WEIGHTS = ("knn", "transform_probe", "transfer")


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """Where the weights of an encoder are, and how its network is built.

    Attributes:
      name: of the workdir or checkpoint, for messages.
      path: the workdir, label subset or checkpoint.
      checkpoint: has the encoder; None for an untrained one, whose weights are a function of the seed.
      config: of the run, with `model`, `data` and `compute_dtype`.
      seed: of the weights of an untrained encoder.
      head: `config.head` of the projection head; None where there is none.
      class_names: of the classifier; None where there is none.
      class_features: what the classifier sees: "h", "z", "g1", ...
      probe: the classifier, if it is not in the checkpoint.
      several_classes: whether an image may have several classes, so that the probabilities do not add up to 1.
    """

    name: str
    path: epath.Path
    checkpoint: epath.Path | None
    config: ConfigDict
    seed: int = 0
    head: ConfigDict | None = None
    class_names: Sequence[str] | None = None
    class_features: str = "h"
    probe: classifiers.SavedClassifier | None = None
    several_classes: bool = False


def find(path: epath.PathLike, pretrained: epath.PathLike | None = None, flag: str = "") -> Saved:
    """Finds the newest weights in a folder.

    Args:
      path: a workdir of pretraining, linear probe, fine-tuning or distillation, a folder of one label subset in it, or one
        checkpoint.
      pretrained: where the encoder of a linear probe (L-BFGS) is, if that has moved.
      flag: names the argument in error messages.

    Raises:
      UserError: where there is nothing to use, or more than one classifier; it says what to do.
    """
    name = f"{flag}={str(path)!r}" if flag else repr(str(path))
    place = files.absolute(hub.local(path, name))
    if not place.exists():
        raise UserError(f"{name} does not exist.")
    if not place.is_dir():
        raise UserError(f"{name} is a file, but has to be the workdir of a run, or one checkpoint in it.")
    newest = checkpoint.newest(place)
    if newest is not None:
        return _of_checkpoint(newest, name)
    if (place / classifiers.NAME).exists():
        return _of_probe(place, name, pretrained)
    if (place / "chosen").is_dir():  # of simclr_jax.transfer with protocol=finetune
        return find(place / "chosen", pretrained, flag)
    _refuse_without_weights(place, name)
    inside = draws.of_run(place)
    if len(inside) > 1:
        names = ", ".join(draw.name for draw in inside)
        raise UserError(f"{name} has one classifier for each subset of the labels: choose one of {names}.")
    if inside:
        return find(inside[0], pretrained, flag)
    raise UserError(
        f"{name} is neither the workdir of a run with a finished checkpoint (a folder {checkpoint.FOLDER}/STEP) nor one "
        "checkpoint."
    )


def _refuse_without_weights(place: epath.Path, name: str) -> None:
    """A message for a workdir that has only results: it names the encoder that was evaluated."""
    for folder in (place, place.parent):
        if not (folder / "config.json").exists():
            continue
        config = saved_config.fields_in(folder / "config.json")
        if config["kind"] in _WITHOUT_WEIGHTS:
            of = f" Load the encoder that it evaluated: {config['pretrained']}." if config.get("pretrained") else ""
            raise UserError(f"{name} is a run of simclr_jax.{config['kind']}, which keeps no weights.{of}")
        old = config["kind"] == "linear_probe" and config.get("protocol") == "lbfgs"
        if old and not list(folder.glob(f"draw_*/{classifiers.NAME}")):
            raise UserError(
                f"{name} is a linear probe without the weights of its classifier, as versions until 0.1.0 wrote it: the same "
                "command of simclr_jax.linear_probe again writes them."
            )


def _of_checkpoint(path: epath.Path, name: str) -> Saved:
    config = checkpoint.load_own_config(path)
    names = None
    # The online classifier of pretraining is only a measure: it has no names.
    if (path / "classifier").exists() and (config.kind != "pretrain" or (path / "classes").exists()):
        names = checkpoint.class_names(path) or _names_beside(path)
        if names is None:
            (number,) = checkpoint.shapes(path, "classifier")["params"]["bias"]
            names = [str(place) for place in range(number)]
    return Saved(
        name=name,
        path=path,
        checkpoint=path,
        config=config,
        seed=config.seed,
        head=_head(path, config),
        class_names=names,
        class_features=config.get("features", "h"),
        several_classes=config.get("metric") == "map11",
    )


def _names_beside(path: epath.Path) -> list[str] | None:
    """The class names of a checkpoint that was written before checkpoints had them: they are with the predictions."""
    workdir = path.parent.parent
    return predictions.read(workdir).class_names if (workdir / predictions.NAME).exists() else None


def _head(path: epath.Path, config: ConfigDict) -> ConfigDict | None:
    """The fields of the projection head in a checkpoint; of a fine-tuned one by its shapes, since its config has none."""
    if "head" in config:
        return config.head
    if not (path / "head").exists():
        return None
    params = checkpoint.shapes(path, "head")["params"]
    layers = sum(layer.startswith("dense") for layer in params)
    return ConfigDict({"kind": "nonlinear", "layers": layers, "dim": params[f"dense{layers}"]["kernel"][1]})


def _of_probe(draw: epath.Path, name: str, pretrained: epath.PathLike | None) -> Saved:
    if not (draw.parent / "config.json").exists():
        raise UserError(f"{name} has a classifier, but no config.json is in the folder above: keep the whole workdir.")
    config = saved_config.read(draw.parent / "config.json", config_lib.linear_probe())
    if draws.is_left_over(draw):
        raise UserError(
            f"{name} is of an earlier run: the one in {draw.parent} has config.label_seeds={tuple(config.label_seeds)}, and "
            "perhaps other settings. Probe this label subset again, with another --workdir of simclr_jax.linear_probe."
        )
    probe = classifiers.read(draw)
    was = probe.encoder or (data_record.read(draw.parent) or {}).get("encoder") or {}
    place = pretrained or config.pretrained
    untrained = config.init == "random"
    of_encoder = None
    if place is not None:
        path = files.absolute(hub.local(place))
        found = _probed(path, was.get("step")) if path.exists() else None
        if found is None and (not untrained or probe.features != "h"):
            raise UserError(
                f"{name} is a probe of the encoder in {place}, where no checkpoint is now: say where it is, with "
                "simclr_jax.load(PATH, pretrained=DIR), or probe an encoder that is there, by simclr_jax.linear_probe."
            )
        if found is not None and not untrained:
            _check_encoder(found, was, name)
        of_encoder = _of_checkpoint(found, name) if found else None
    return Saved(
        name=name,
        path=draw,
        checkpoint=None if untrained or of_encoder is None else of_encoder.checkpoint,
        config=config,
        seed=was.get("seed", of_encoder.seed if of_encoder else config.seed),
        head=of_encoder.head if of_encoder else None,
        class_names=probe.class_names,
        class_features=probe.features,
        probe=probe,
    )


def _probed(place: epath.Path, step: int | None) -> epath.Path | None:
    """The checkpoint of this step in a workdir, and where it has none, the newest one; or `place`, if it is a checkpoint."""
    newest = checkpoint.newest(place)
    if newest is None or newest == place:
        return newest
    return next((one for one in places.all_of(newest.parent) if int(one.name) == step), newest)


def _check_encoder(found: epath.Path, was: Mapping[str, Any], name: str) -> None:
    """Refuses an encoder that is not the one of the probe."""
    if checkpoint.changed(found, "encoder", was):
        raise UserError(
            f"{name}: the encoder in {found} has other weights than the one that was probed, at step {was.get('step')}. Say "
            "where that one is, with simclr_jax.load(PATH, pretrained=DIR), or probe this one, by simclr_jax.linear_probe with "
            "another --workdir."
        )
