"""Names of our tensors in what the reference's TF2 code writes (github.com/google-research/simclr, tf2/).

Its training checkpoints name a variable by the attributes that lead to it. Its SavedModels keep only the names that Keras
gave, with numbers in the order of creation, so their variables are first renamed as in TF1 (`as_tf1`).
"""

from collections.abc import Iterable
import re

from simclr_jax.interchange.layers import Layer
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.interchange.layers import block_layers
from simclr_jax.interchange.layers import stem_layers
from simclr_jax.interchange.tf1_names import BATCH_NORM

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
OF_THE_TRAINING = re.compile(
    r"^_CHECKPOINTABLE_OBJECT_GRAPH$|^(global_step|save_counter)/|/\.OPTIMIZER_SLOT/|^optimizer/|/OBJECT_CONFIG_JSON$"
)
_HEAD = re.compile(r"model/_projection_head/linear_layers/(\d+)/dense/kernel" + SUFFIX)
_SELECTIVE = {
    "conv": "conv2d_fixed_padding/conv2d",
    "bn": "batch_norm_relu/bn",
    "mixing_conv1": "conv2d_0",
    "mixing_bn": "batch_norm_relu_1/bn",
    "mixing_conv2": "conv2d_1",
}


def names(skeleton: Skeleton) -> dict[str, str]:
    """Our name of every tensor of such a network, and its key in a training checkpoint."""
    found: dict[str, str] = {}

    def add(layer: Layer, there: str) -> None:
        for ours, leaf in layer.tensors():
            found[ours] = f"{there}/{BATCH_NORM.get(leaf, leaf)}{SUFFIX}"

    # Places in the stem's list: the deep stem's third convolution and its BatchNorm have an identity layer between them.
    places = (0, 1, 2, 3, 4, 6) if skeleton.deep_stem else (0, 2)
    for layer, place in zip(stem_layers(skeleton), places, strict=True):
        what = "conv2d" if layer.kind == "conv" else "bn"
        add(layer, f"model/resnet_model/initial_conv_relu_max_pool/{place}/{what}")
    for stage, block, projection in skeleton.blocks():
        for layer in block_layers(skeleton, stage, block, projection):
            there = f"model/resnet_model/block_groups/{stage}/layers/{block}"
            add(layer, f"{there}/{_in_block(skeleton, stage, layer)}")
    for index in range(skeleton.head):
        there = f"model/_projection_head/linear_layers/{index}"
        found[f"head/dense{index + 1}/kernel"] = f"{there}/dense/kernel{SUFFIX}"
        for leaf, name in BATCH_NORM.items():
            if leaf != "bias" or index < skeleton.head - 1:
                found[f"head/bn{index + 1}/{leaf}"] = f"{there}/bn_relu/bn/{name}{SUFFIX}"
    if skeleton.classifier:
        for leaf in ("kernel", "bias"):
            found[f"classifier/{leaf}"] = f"model/supervised_head/linear_layer/dense/{leaf}{SUFFIX}"
    return found


def _in_block(skeleton: Skeleton, stage: int, layer: Layer) -> str:
    """The attributes below a block that lead to a layer."""
    name = layer.path.split("/", 2)[2]
    if name.startswith("shortcut"):
        # Before the convolution: padding and average pool where the stride is 2, the pool alone where it is 1.
        place = (2 if stage > 0 else 1) if skeleton.selective else 0
        of_list = "projection_layers" if skeleton.bottleneck else "shortcut_layers"
        return f"{of_list}/{place}/conv2d" if layer.kind == "conv" else f"{of_list}/{place + 1}/bn"
    if not skeleton.bottleneck:
        place = {"conv1": 0, "bn1": 1, "conv2": 2, "bn2": 3}[name]
        return f"conv2d_bn_layers/{place}/{'conv2d' if layer.kind == 'conv' else 'bn'}"
    if name.startswith("conv2/"):
        return f"conv_relu_dropblock_layers/3/{_SELECTIVE[name.removeprefix('conv2/')]}"
    # A DropBlock layer follows each BatchNorm. A selective unit has its BatchNorms within.
    last = 5 if skeleton.selective else 6
    place = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": last, "bn3": last + 1}[name]
    return f"conv_relu_dropblock_layers/{place}/{'conv2d' if layer.kind == 'conv' else 'bn'}"


def recognises(names: Iterable[str]) -> bool:
    """Whether these are the keys of such a training checkpoint."""
    return f"model/resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel{SUFFIX}" in set(names)


def heads(names: Iterable[str]) -> tuple[int, bool, bool]:
    """Number of layers of the projection head, whether it is the linear one, and whether there is a classifier."""
    names = list(names)
    layers = sum(_HEAD.fullmatch(name) is not None for name in names)
    return layers, layers == 1, any(name.startswith("model/supervised_head/") for name in names)


def as_tf1(variables: Iterable[str]) -> dict[str, str]:
    """The TF1 name of each variable of a SavedModel, such as "resnet/conv2d_fixed_padding/conv2d/kernel:0".

    A variable of another kind keeps its name.
    """
    variables = list(variables)
    if any(name.startswith("base_model/") for name in variables):  # written by TF1 code
        return {name: name.partition(":")[0] for name in variables}
    numbers: dict[str, set[int]] = {"conv2d": set(), "batch_normalization": set()}
    for kind, number, _ in filter(None, map(_of_encoder, variables)):
        numbers[kind].add(number)
    order = {kind: {number: place for place, number in enumerate(sorted(seen))} for kind, seen in numbers.items()}
    renamed = {}
    for name in variables:
        parts = name.partition(":")[0].split("/")
        leaf, encoder = parts[-1], _of_encoder(name)
        if encoder is not None:
            place = order[encoder[0]][encoder[1]]
            renamed[name] = f"base_model/{encoder[0]}{f'_{place}' if place else ''}/{leaf}"
        elif "projection_head" in parts[0]:
            layer = next((part for part in parts if re.fullmatch(r"nl_\d+|l_0", part)), "?")
            what = "dense" if leaf == "kernel" else "batch_normalization"
            renamed[name] = f"head_contrastive/{layer}/{what}/{leaf}"
        elif "supervised" in parts[0]:
            renamed[name] = f"head_supervised/linear_layer/dense/{leaf}"
        else:
            renamed[name] = name
    return renamed


def _of_encoder(name: str) -> tuple[str, int, str] | None:
    """Kind, number and leaf of a variable of the encoder; None for any other."""
    parts = name.partition(":")[0].split("/")
    if len(parts) < 3 or not parts[0].startswith("resnet"):
        return None
    match = re.fullmatch(r"(conv2d|(?:sync_)?batch_normalization)(?:_(\d+))?", parts[-2])
    if match is None:
        return None
    kind = "conv2d" if match[1] == "conv2d" else "batch_normalization"
    return kind, int(match[2] or 0), parts[-1]
