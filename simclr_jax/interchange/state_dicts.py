"""Open files of PyTorch and safetensors, without ever running code in them."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.interchange import infer
from simclr_jax.interchange import torch_names
from simclr_jax.interchange.base import Options
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.base import WeightSource
from simclr_jax.interchange.base import check_values
from simclr_jax.runtime import extras

# Where programs put the state dict in what they save, the outermost first.
_WRAPPERS = (
    ("classy_state_dict", "base_model", "model", "trunk"),
    ("state_dict_ema",),
    ("model_ema",),
    ("state_dict",),
    ("model_state_dict",),
    ("model",),
)
_DATA_PARALLEL = "module."


def open_file(place: str, path: epath.Path) -> WeightSource:
    """Opens a .safetensors file, or one that `torch.save` wrote.

    Raises:
      UserError: where a package is missing, and where the file is damaged or holds Python objects.
    """
    beside: list[str] = []
    if path.name.endswith(".safetensors"):
        tensors = _read_safetensors(place, path)
    else:
        tensors, beside = _read_torch(place, path)
    if tensors and all(name.startswith(_DATA_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_DATA_PARALLEL): tensor for name, tensor in tensors.items()}
    counters = sorted(name for name in tensors if name.endswith(torch_names.COUNTER))
    ignored = {"counters of batches": counters, "beside the state dict": beside}
    return WeightSource(
        place=place,
        layout="torch",
        what="a safetensors file" if path.name.endswith(".safetensors") else "a PyTorch file",
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in set(counters)},
        read=lambda name: tensors[name],
        ignored={reason: names for reason, names in ignored.items() if names},
    )


def _read_safetensors(place: str, path: epath.Path) -> dict[str, np.ndarray]:
    needs = "a .safetensors file needs the package safetensors"
    safetensors, tensors = (extras.load(name, needs, "weights") for name in ("safetensors", "safetensors.numpy"))
    try:
        return tensors.load(path.read_bytes())
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--source={place!r} cannot be read as safetensors; it is damaged, incomplete or of another kind: {error}"
        ) from error


def _read_torch(place: str, path: epath.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of the state dict, and what else is in the file."""
    needs = f"{path.name} needs PyTorch to be read"
    torch = extras.load("torch", needs, "torch", ". (A .safetensors file does not.)")
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of several types, by the kind of damage
        text = " ".join(str(error).split())
        if "weights_only" in text or "Unsupported" in text or "GLOBAL" in text:
            raise UserError(
                f"--source={place!r} holds Python objects besides tensors, which are never run here. Save its state dict "
                "alone, where you trust it: torch.save(checkpoint['state_dict'], 'weights.pth')."
            ) from error
        raise UserError(
            f"--source={place!r} cannot be read; it is damaged, incomplete or not written by torch.save: {text[:200]}"
        ) from error
    found, beside = _unwrapped(content)
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        keys = listed(str(key) for key in found) if found else f"a {type(content).__name__}"
        raise UserError(f"--source={place!r} holds no state dict: it has {keys[:200]}.")
    beside += [str(name) for name in found if name not in tensors]
    return {name: _numpy(tensor) for name, tensor in tensors.items()}, beside


def _numpy(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16


def _unwrapped(content: Any) -> tuple[Mapping, list[str]]:
    """The state dict in what a program saved, and the other entries."""
    if not isinstance(content, Mapping):
        return {}, []
    for wrapper in _WRAPPERS:
        inner: Any = content
        beside = []
        for depth, key in enumerate(wrapper):
            if not isinstance(inner, Mapping):
                break
            beside += [".".join((*wrapper[:depth], str(other))) for other in inner if other != key]
            inner = inner.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner, beside
    return content, []


def read(source: WeightSource, options: Options) -> Weights:
    """The weights in a state dict.

    Args:
      source: from `open_file`. Its `ignored` gets the names of what belongs to no encoder, its `place_of_encoder` the place.
      options: what the user said about it.

    Raises:
      UserError: for an unknown layout.
    """
    place = torch_names.find(source.shapes, options.format)
    if place is None:
        shown = ", ".join(sorted(source.shapes)[:5])
        raise UserError(
            f"--source={source.place!r} has no ResNet in a layout that is known"
            f"{f' as {options.format}' if options.format else ''}: it has {len(source.shapes)} tensors, {shown}, ... Known are "
            f"conv1.weight, layer1.0.conv1.weight, ... of torchvision, alone or in {listed(torch_names.FORMATS)}."
        )
    source.details["place"] = place
    classifier = place.format.classifier
    ignored = [name for name in source.shapes if name.startswith(place.format.ignored)] if place.format.ignored else []
    if ignored:
        source.ignored[f"heads of {place.format.name}, which are not those of our networks"] = sorted(ignored)
    found = set(source.shapes) - set(ignored)
    has_classifier = classifier is not None and f"{classifier}weight" in found
    candidates = infer.skeletons(0, False, has_classifier, pytorch=True)
    match = infer.match(source.place, found, candidates, lambda skeleton: torch_names.names(skeleton, place))
    shapes = {ours: torch_names.shape_of_ours(source.shapes[name]) for ours, name in match.names.items()}
    small = shapes["encoder/stem_conv/kernel"][0] == 3
    mean, std = place.format.statistics[small]
    config, classes = infer.pretrain_config(
        source.place,
        match,
        shapes,
        stem=place.format.small_stem if small else "imagenet",
        padding=options.padding or "torch",
        stage1_projection=match.skeleton.stage1_projection,
        input_mean=options.input_mean or mean,
        input_std=options.input_std or std,
    )
    tensors = {
        ours: np.ascontiguousarray(torch_names.to_ours(np.asarray(source.read(name), np.float32)))
        for ours, name in match.names.items()
    }
    check_values(source.place, tensors, match.names)
    return Weights(config, classes, tensors, source.step)
