"""Run a ResNet state dict by PyTorch's own operations, with its own names and layout: what an import is compared with."""

from typing import Any

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.interchange.base import WeightSource
from simclr_jax.interchange.torch_names import Place


def run(source: WeightSource, model: ConfigDict, images: np.ndarray) -> dict[str, np.ndarray] | None:
    """h, and logits where there is a classifier; None where PyTorch is not installed.

    Args:
      source: a state dict.
      model: `config.model` of the import, for what no tensor tells: padding, stem, mean and deviation of the input.
      images: float32 `[n, height, width, 3]` in [0, 1].
    """
    try:
        import torch
    except ImportError:
        return None
    place: Place = source.details["place"]
    functional = torch.nn.functional

    def tensor(name: str) -> Any:
        return torch.from_numpy(np.array(source.read(name), np.float32))

    def conv(x: Any, name: str, stride: int = 1, pad: int | None = None) -> Any:
        kernel = tensor(place.name(f"{name}.weight"))
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2 if pad is None else pad)

    def norm(x: Any, name: str) -> Any:
        mean, var, weight, bias = (
            tensor(place.name(f"{name}.{leaf}")) for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    def block(x: Any, name: str, stride: int) -> Any:
        bottleneck = place.name(f"{name}.conv3.weight") in source.shapes
        shortcut = x
        if place.name(f"{name}.downsample.0.weight") in source.shapes:
            shortcut = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        x = functional.relu(norm(conv(x, f"{name}.conv1", 1 if bottleneck else stride), f"{name}.bn1"))
        x = norm(conv(x, f"{name}.conv2", stride if bottleneck else 1), f"{name}.bn2")
        if bottleneck:
            x = norm(conv(functional.relu(x), f"{name}.conv3"), f"{name}.bn3")
        return functional.relu(x + shortcut)

    with torch.no_grad():
        scaled = (images - np.float32(model.input_mean)) / np.float32(model.input_std)
        x = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)).astype(np.float32))
        if model.stem == "imagenet":
            x = functional.relu(norm(conv(x, "conv1", 2), "bn1"))
            pad = {"padding": 1} if model.padding == "torch" else {"ceil_mode": True}
            x = functional.max_pool2d(x, 3, 2, **pad)
        else:
            x = functional.relu(norm(conv(x, "conv1", 1, 2 if model.stem == "cifar_wide" else 1), "bn1"))
        for stage in range(1, 5):
            number = 0
            while place.name(f"layer{stage}.{number}.conv1.weight") in source.shapes:
                x = block(x, f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1)
                number += 1
        outputs = {"h": x.mean((2, 3))}
        classifier = place.format.classifier
        if classifier is not None and f"{classifier}weight" in source.shapes:
            outputs["logits"] = outputs["h"] @ tensor(f"{classifier}weight").T + tensor(f"{classifier}bias")
        return {name: value.numpy() for name, value in outputs.items()}
