"""Names of our tensors in checkpoints of the reference's TF1 code (github.com/google-research/simclr, model.py, resnet.py).

Convolutions and BatchNorms of the encoder are numbered in the order of creation; the first has no number. Kernels have our
layout. Optimiser slots (`Momentum`), `global_step` and moving averages of weights (`ema_model/`) are no part of the network.
"""

from collections.abc import Iterable
import re

from simclr_jax.interchange.layers import Skeleton
from simclr_jax.interchange.layers import encoder_layers

BATCH_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
OF_THE_TRAINING = re.compile(
    r"(^|/)(global_step|Momentum|Momentum_\d+|ExponentialMovingAverage|beta[12]_power|Adam|Adam_1)$|^ema_model/|^save_counter$"
)
_HEAD = re.compile(r"head_contrastive/(nl_(\d+)|l_0)/dense/kernel")


def names(skeleton: Skeleton) -> dict[str, str]:
    """Our name of every tensor of such a network, and its name there."""
    found: dict[str, str] = {}
    counts = {"conv": 0, "bn": 0}
    for layer in encoder_layers(skeleton):
        number = f"_{counts[layer.kind]}" if counts[layer.kind] else ""
        counts[layer.kind] += 1
        there = ("conv2d" if layer.kind == "conv" else "batch_normalization") + number
        for ours, leaf in layer.tensors():
            found[ours] = f"base_model/{there}/{BATCH_NORM.get(leaf, leaf)}"
    for index in range(skeleton.head):
        there = "head_contrastive/" + ("l_0" if skeleton.linear_head else f"nl_{index}")
        found[f"head/dense{index + 1}/kernel"] = f"{there}/dense/kernel"
        for leaf, name in BATCH_NORM.items():
            if leaf != "bias" or index < skeleton.head - 1:  # the last BatchNorm has no offset
                found[f"head/bn{index + 1}/{leaf}"] = f"{there}/batch_normalization/{name}"
    if skeleton.classifier:
        for leaf in ("kernel", "bias"):
            found[f"classifier/{leaf}"] = f"head_supervised/linear_layer/dense/{leaf}"
    return found


def recognises(names: Iterable[str]) -> bool:
    """Whether these are the names of such a checkpoint."""
    return "base_model/conv2d/kernel" in set(names)


def heads(names: Iterable[str]) -> tuple[int, bool, bool]:
    """Number of layers of the projection head, whether it is the linear one, and whether there is a classifier."""
    names = list(names)
    matches = [match for match in map(_HEAD.fullmatch, names) if match]
    linear = any(match[1] == "l_0" for match in matches)
    return len(matches), linear, any(name.startswith("head_supervised/") for name in names)
