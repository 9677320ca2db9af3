"""Names of our tensors in PyTorch state dicts, as torchvision and timm have them, and where other programs put the encoder.

Convolution kernels are OIHW there and dense ones OI; `to_ours` and `from_ours` transpose them.
"""

from collections.abc import Iterable
import dataclasses

import numpy as np

from simclr_jax.interchange.layers import Skeleton
from simclr_jax.interchange.layers import block_layers
from simclr_jax.interchange.layers import block_name
from simclr_jax.interchange.layers import stem_layers

BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_IN_BLOCK = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}
# `nn.Sequential(*list(resnet.children())[:-1])` counts conv1, bn1, relu, maxpool, layer1, ...
_IN_SEQUENCE = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@dataclasses.dataclass(frozen=True)
class Format:
    """What a program writes.

    Attributes:
      name: for --format.
      prefixes: of the encoder's names.
      marks: a name begins with one of these; nothing else writes them beside such an encoder.
      unmarked: no name begins with one of these.
      ignored: beginnings of names that belong to no encoder: heads, whose layers are not those of our head.
      classifier: beginning of the names of a linear classifier on h; None where it has none.
      statistics: mean and deviation by which it normalises images, with the 7x7 stem and with the 3x3 one.
      small_stem: our name of its 3x3 stem.
    """

    name: str
    prefixes: tuple[str, ...]
    marks: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    classifier: str | None = None
    statistics: tuple = (IMAGENET, IMAGENET)
    small_stem: str = "cifar"


_MOMENTUM = ("momentum_backbone.", "momentum_encoder.", "momentum_projector.", "momentum_classifier.", "queue")
FORMATS = {
    one.name: one
    for one in (
        Format("vissl", ("_feature_blocks.", "trunk._feature_blocks."), ignored=("heads.",)),
        Format("sthalles", ("backbone.",), ("backbone.fc.0.",), ignored=("backbone.fc.",), statistics=(NONE, NONE)),
        Format(
            "solo-learn",
            ("backbone.", "encoder."),
            ("classifier.",),
            ignored=("projector.", "predictor.", *_MOMENTUM),
            classifier="classifier.",
            statistics=(IMAGENET, CIFAR10),
            small_stem="cifar_wide",
        ),
        Format(
            "lightly",
            ("backbone.",),
            ignored=("projection_head.", "prediction_head.", "backbone_momentum.", "projection_head_momentum."),
        ),
        Format(
            "spijkervet",
            ("encoder.",),
            ("projector.0.weight",),
            ("projector.0.bias",),
            ignored=("projector.",),
            statistics=(NONE, NONE),
        ),
        Format(
            "bolts",
            ("encoder.model.", "encoder."),
            ("projection.",),
            ignored=("projection.", "encoder.fc.", "encoder.model.fc.", "online_finetuner.", "non_linear_evaluator."),
            statistics=(IMAGENET, CIFAR10),
        ),
        Format("torchvision", ("",), classifier="fc."),
        Format("timm", ("",), classifier="fc."),
        Format("lightly-train", ("",), classifier="fc."),
    )
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the encoder is in a state dict: the format, the prefix, and whether its layers are numbered."""

    format: Format
    prefix: str
    sequential: bool

    def name(self, torchvision_name: str) -> str:
        """The name of one of the encoder's tensors here."""
        first, _, rest = torchvision_name.partition(".")
        return f"{self.prefix}{_IN_SEQUENCE[first] if self.sequential else first}.{rest}"


def find(names: Iterable[str], given: str | None = None) -> Place | None:
    """The format of a state dict and the place of the encoder in it; None where there is none.

    Args:
      names: of its tensors.
      given: the name of the format; None: find it.
    """
    names = set(names)
    begins = lambda beginning: any(name.startswith(beginning) for name in names)  # noqa: E731
    for format_ in [FORMATS[given]] if given else FORMATS.values():
        if not given and (
            (format_.marks and not any(map(begins, format_.marks))) or any(map(begins, format_.unmarked))
        ):
            continue
        for prefix in format_.prefixes:
            for sequential, first in ((False, "conv1"), (True, "0")):
                place = Place(format_, prefix, sequential)
                if f"{prefix}{first}.weight" in names and place.name("layer1.0.conv1.weight") in names:
                    return place
    return None


def names(skeleton: Skeleton, place: Place | None = None) -> dict[str, str]:
    """Our name of every tensor of encoder and classifier, and its name in a state dict: torchvision's without `place`."""
    place = place or Place(FORMATS["torchvision"], "", False)
    found = {}

    def add(layer, there: str) -> None:
        for ours, leaf in layer.tensors():
            found[ours] = place.name(f"{there}.{'weight' if leaf == 'kernel' else BATCH_NORM[leaf]}")

    # Stock ResNets have no deep stem: these names are those of the module that simclr_jax.export writes.
    deep = ("stem.0", "stem.1", "stem.3", "stem.4") if skeleton.deep_stem else ()
    for layer, there in zip(stem_layers(skeleton), (*deep, "conv1", "bn1"), strict=True):
        add(layer, there)
    for stage, block, projection in skeleton.blocks():
        for layer in block_layers(skeleton, stage, block, projection):
            name = layer.path.removeprefix(f"{block_name(stage, block)}/").replace("/", ".")
            add(layer, f"layer{stage + 1}.{block}.{_IN_BLOCK.get(name, name)}")
    if skeleton.classifier:
        found |= {
            "classifier/kernel": f"{place.format.classifier}weight",
            "classifier/bias": f"{place.format.classifier}bias",
        }
    return found


def shape_of_ours(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in our layout of a tensor with this shape in PyTorch's."""
    return (*shape[2:], shape[1], shape[0]) if len(shape) in (2, 4) else shape


def to_ours(tensor: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, OI to IO; vectors as they are."""
    return tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim in (2, 4) else tensor


def from_ours(tensor: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, IO to OI; vectors as they are."""
    return tensor.transpose(-1, -2, *range(tensor.ndim - 2)) if tensor.ndim in (2, 4) else tensor
