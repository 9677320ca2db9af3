"""Open a file of weights: find out what it is, and read its tensors by name."""

import re
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import state_dicts
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange import tf2_names
from simclr_jax.interchange.base import WeightSource
from simclr_jax.runtime import files

# Kinds of files by the ends of their names.
SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".torch")
_PART_OF_CHECKPOINT = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")


def open_source(place: str) -> WeightSource:
    """Opens a file or folder of weights, also in a bucket.

    Args:
      place: a SavedModel (its folder, or one with numbered SavedModels), a TensorFlow checkpoint (its prefix, one of its
        files, or its folder), or a file of PyTorch or safetensors.

    Raises:
      UserError: where it is none of these, or cannot be read.
    """
    path = files.absolute(place)
    folder = _saved_model(path)
    if folder is not None:
        return _open_saved_model(place, folder)
    prefix = _checkpoint_prefix(path)
    if prefix is not None:
        return _open_checkpoint(place, prefix)
    if not path.exists():
        raise UserError(f"--source={place!r} does not exist.")
    if path.is_dir():
        found = ", ".join(sorted(child.name for child in path.iterdir())[:6]) or "nothing"
        raise UserError(
            f"--source={place!r} is a folder without a SavedModel (saved_model.pb) or a TensorFlow checkpoint (*.index): it "
            f"has {found}."
        )
    if path.name.endswith((*SAFETENSORS, *TORCH)):
        return state_dicts.open_file(place, path)
    unpack = " Unpack it first, and name the checkpoint in it." if path.suffix in (".zip", ".xz", ".gz", ".tgz") else ""
    raise UserError(
        f"--source={place!r} is no file of weights that is known: a SavedModel, a TensorFlow checkpoint (PREFIX.index), "
        f"{', '.join((*SAFETENSORS, *TORCH))}.{unpack}"
    )


def _saved_model(path: epath.Path) -> epath.Path | None:
    """The folder of a SavedModel: the path itself, a `saved_model` in it, or the newest of numbered ones in it."""
    if path.name == "saved_model.pb":
        return path.parent
    for folder in (path, path / "saved_model"):
        if (folder / "saved_model.pb").exists():
            return folder
        if folder.is_dir():
            steps = [
                child for child in folder.iterdir() if child.name.isdecimal() and (child / "saved_model.pb").exists()
            ]
            if steps:
                return max(steps, key=lambda child: int(child.name))
    return None


def _checkpoint_prefix(path: epath.Path) -> epath.Path | None:
    """The prefix of a TensorFlow checkpoint, from the prefix, one of its files, or its folder (the newest one in it)."""
    prefix = path.parent / _PART_OF_CHECKPOINT.sub("", path.name)
    if (prefix.parent / f"{prefix.name}.index").exists():
        return prefix
    if not path.is_dir():
        return None
    indices = [child.name.removesuffix(".index") for child in path.iterdir() if child.name.endswith(".index")]
    if not indices:
        return None

    def step(name: str) -> int:
        number = re.search(r"-(\d+)$", name)
        return int(number[1]) if number else -1

    return path / max(indices, key=step)


def _open_checkpoint(place: str, prefix: epath.Path) -> WeightSource:
    from simclr_jax.runtime.tensorflow import tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        all_shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise _unreadable(place, error) from error

    def read(name: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise _unreadable(place, error) from error

    layout, of_the_training = _layout_of(place, all_shapes)
    ignored = _ignored(all_shapes, of_the_training)
    shapes = {name: shape for name, shape in all_shapes.items() if not any(name in names for names in ignored.values())}
    steps = [name for name in all_shapes if name.split("/")[0] == "global_step"]
    graph = prefix.parent / f"{prefix.name}.meta"
    return WeightSource(
        place=place,
        layout=layout,
        what="a TensorFlow checkpoint",
        shapes=shapes,
        read=read,
        ignored=ignored,
        graph=graph if graph.exists() else None,
        step=int(read(steps[0])) if steps else 0,
    )


def _open_saved_model(place: str, folder: epath.Path) -> WeightSource:
    from simclr_jax.runtime.tensorflow import load_saved_model
    from simclr_jax.runtime.tensorflow import tf

    try:
        module = load_saved_model(str(folder))
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError, OSError) as error:
        raise _unreadable(place, error) from error
    variables: dict[str, Any] = {}
    call = getattr(module, "__call__", None)  # noqa: B004 (it is the function that matters, not whether it can be called)
    for function in getattr(call, "concrete_functions", ()):
        variables |= {variable.name: variable for variable in function.variables}
    if not variables:
        variables = {variable.name: variable for variable in getattr(module, "variables", ())}
    renamed = tf2_names.as_tf1(variables)
    by_name = {renamed[name]: variable for name, variable in variables.items()}
    if len(by_name) < len(variables) or not tf1_names.recognises(by_name):
        raise _unknown(
            place, variables, "a SavedModel of the reference (resnet/conv2d_fixed_padding/conv2d/kernel, ...)"
        )
    ignored = _ignored(by_name, tf1_names.OF_THE_TRAINING)
    return WeightSource(
        place=place,
        layout="tf1",
        what="a SavedModel",
        shapes={
            name: tuple(variable.shape)
            for name, variable in by_name.items()
            if not any(name in names for names in ignored.values())
        },
        read=lambda name: by_name[name].numpy(),
        ignored=ignored,
        module=module,
        step=int(folder.name) if folder.name.isdecimal() else 0,
    )


def _layout_of(place: str, names: dict[str, Any]) -> tuple[str, re.Pattern]:
    """The layout of a TensorFlow checkpoint, and the pattern of the names that are no part of the network."""
    if tf1_names.recognises(names):
        return "tf1", tf1_names.OF_THE_TRAINING
    if tf2_names.recognises(names):
        return "tf2", tf2_names.OF_THE_TRAINING
    if any(re.match(r"variables/\d+/|.*/variables/\d+/", name) for name in names):
        raise UserError(
            f"--source={place!r} is the inner part of a SavedModel, without names: give the folder with saved_model.pb."
        )
    raise _unknown(
        place,
        names,
        "TF1 checkpoints of the reference (base_model/conv2d/kernel, ...) or TF2 ones (model/resnet_model/...)",
    )


def _ignored(names: Any, of_the_training: re.Pattern) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.startswith("ema_model/"):
            reasons.setdefault("moving averages of the weights (ema_model/)", []).append(name)
        elif of_the_training.search(name):
            what = "optimiser" if re.search(r"Momentum|OPTIMIZER|optimizer|Adam|power", name) else "counters and graph"
            reasons.setdefault(what, []).append(name)
    return reasons


def _unreadable(place: str, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:300]
    return UserError(f"--source={place!r} cannot be read; it is damaged, incomplete or of another kind: {text}")


def _unknown(place: str, names: Any, nearest: str) -> UserError:
    shown = ", ".join(sorted(names)[:5])
    return UserError(
        f"--source={place!r} has {len(list(names))} tensors in a layout that is not known: {shown}, ... The nearest known "
        f"layout is {nearest}."
    )
