"""The layers of a network with weights, in the order in which the reference implementation creates them.

Every layout of weights (`tf1_names`, `tf2_names`, `torch_names`) names the tensors of these layers. Our own names, the keys of
all the dictionaries here, are paths in a checkpoint: "encoder/stage1_block1/conv1/kernel".
"""

from collections.abc import Iterator
import dataclasses
from typing import NamedTuple

from simclr_jax.models.resnet import STAGES

# The tensors of each kind of layer, by the name of the leaf.
LEAVES = {"conv": ("kernel",), "bn": ("scale", "bias", "mean", "var"), "dense": ("kernel", "bias")}


class Layer(NamedTuple):
    """A layer with weights: its path in our checkpoints, and its kind ("conv", "bn" or "dense")."""

    path: str
    kind: str

    def tensors(self, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
        """Our name of each tensor, and the name of its leaf."""
        for leaf in LEAVES[self.kind]:
            if leaf not in without:
                yield f"{self.path}/{leaf}", leaf


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What decides which tensors a network has, but not their shapes.

    Attributes:
      depth: of the ResNet.
      stem: "imagenet", "cifar" or "cifar_wide".
      selective: whether its blocks have selective kernels.
      stage1_projection: whether the first block of stage 1 has a projection.
      head: number of layers of the projection head; 0 for none.
      linear_head: whether that is the head of kind "linear".
      classifier: whether there is a linear classifier.
    """

    depth: int
    stem: str = "imagenet"
    selective: bool = False
    stage1_projection: bool = True
    head: int = 0
    linear_head: bool = False
    classifier: bool = False

    @property
    def bottleneck(self) -> bool:
        return STAGES[self.depth][1]

    @property
    def deep_stem(self) -> bool:
        return self.selective and self.stem == "imagenet"

    def blocks(self) -> Iterator[tuple[int, int, bool]]:
        """Stage and block, both counted from 0, and whether the shortcut is a projection."""
        for stage, number in enumerate(STAGES[self.depth][0]):
            for block in range(number):
                yield stage, block, block == 0 and (stage > 0 or self.stage1_projection)

    def describe(self) -> str:
        """For messages: "ResNet-50 with selective kernels, 3 head layers and a classifier"."""
        parts = ["selective kernels"] if self.selective else []
        parts += ["a 3x3 stem"] if self.stem != "imagenet" else []
        parts += ["no projection in stage 1"] if not self.stage1_projection else []
        parts += [f"{self.head} head layer(s)"] if self.head else []
        parts += ["a classifier"] if self.classifier else []
        return f"ResNet-{self.depth}" + (" with " + ", ".join(parts) if parts else "")


def block_name(stage: int, block: int) -> str:
    """The path of a block, both counted from 0."""
    return f"encoder/stage{stage + 1}_block{block + 1}"


def stem_layers(skeleton: Skeleton) -> list[Layer]:
    """Convolutions and BatchNorms before the first block."""
    deep = ("stem_conv1", "stem_bn1", "stem_conv2", "stem_bn2") if skeleton.deep_stem else ()
    return [_layer(f"encoder/{name}") for name in (*deep, "stem_conv", "stem_bn")]


def block_layers(skeleton: Skeleton, stage: int, block: int, projection: bool) -> list[Layer]:
    """Convolutions and BatchNorms of a block. The shortcut comes first."""
    names = ["shortcut_conv", "shortcut_bn"] if projection else []
    names += ["conv1", "bn1"]
    if skeleton.selective:
        names += [f"conv2/{name}" for name in ("conv", "bn", "mixing_conv1", "mixing_bn", "mixing_conv2")]
    else:
        names += ["conv2", "bn2"]
    names += ["conv3", "bn3"] if skeleton.bottleneck else []
    return [_layer(f"{block_name(stage, block)}/{name}") for name in names]


def encoder_layers(skeleton: Skeleton) -> list[Layer]:
    """All convolutions and BatchNorms of the encoder, in the order of creation."""
    layers = stem_layers(skeleton)
    for stage, block, projection in skeleton.blocks():
        layers += block_layers(skeleton, stage, block, projection)
    return layers


def _layer(path: str) -> Layer:
    name = path.rpartition("/")[2]
    return Layer(path, "bn" if "bn" in name else "conv")


def number_of(layers: list[Layer], kind: str) -> int:
    return sum(layer.kind == kind for layer in layers)
