"""Find the network to which tensors belong: its kind from their names, its sizes from their shapes."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import itertools
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import choices
from simclr_jax.errors import UserError
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.models.init_rngs import InitRngs
from simclr_jax.models.networks import SimCLR
from simclr_jax.models.resnet import STAGES
from simclr_jax.models.selective_kernels import MIN_MIXING_WIDTH
from simclr_jax.training import state as state_lib

Shapes = dict[str, tuple[int, ...]]
# How many names a message lists.
SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Match:
    """A network, and where each of its tensors is.

    Attributes:
      skeleton: which tensors it has.
      names: our name of each tensor to its name in the source.
    """

    skeleton: Skeleton
    names: dict[str, str]


def skeletons(head: int, linear_head: bool, classifier: bool, *, pytorch: bool = False) -> Iterable[Skeleton]:
    """All networks with such heads. `pytorch`: ResNet-18 and -34 without projection in stage 1 too, no selective kernels."""
    for depth, selective in itertools.product(STAGES, (False, True)):
        bottleneck = STAGES[depth][1]
        if selective and (pytorch or not bottleneck):
            continue
        # Without selective kernels both stems have the same tensors, of different shapes.
        for stem in ("imagenet", "cifar") if selective else ("imagenet",):
            for projection in (True, False) if pytorch and not bottleneck else (True,):
                yield Skeleton(depth, stem, selective, projection, head, linear_head, classifier)


def match(place: str, found: Iterable[str], candidates: Iterable[Skeleton], name: Callable[[Skeleton], dict]) -> Match:
    """The network that has exactly the tensors of a source.

    Args:
      place: for messages.
      found: the names in the source.
      candidates: the networks that it can be of.
      name: our names of a network's tensors to its names in the layout of the source.

    Raises:
      UserError: where there is none; names what is missing in the nearest one, and what is left over.
    """
    found = set(found)
    matches = [Match(skeleton, name(skeleton)) for skeleton in candidates]
    nearest = min(matches, key=lambda one: len(found ^ set(one.names.values())))
    missing, left = set(nearest.names.values()) - found, found - set(nearest.names.values())
    if missing or left:
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for what, names in (("missing", missing), ("left over", left))
            if names
        ]
        raise UserError(
            f"--source={place!r}: its tensors are those of no known network. The nearest is a {nearest.skeleton.describe()}: "
            f"{', '.join(parts)}."
        )
    return nearest


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def pretrain_config(place: str, match: Match, shapes: Shapes, **model: Any) -> tuple[ConfigDict, int | None]:
    """The config of a pretraining run with this network, and the number of classes of its classifier.

    Args:
      place: for messages.
      match: the network.
      shapes: of its tensors, by our names, in our layout.
      **model: further fields of `config.model`.

    Raises:
      UserError: where the shapes are not those of such a network.
    """
    skeleton = match.skeleton
    stem = shapes["encoder/stem_conv/kernel"]
    config = config_lib.pretrain()
    config.model.update(depth=skeleton.depth, width=stem[-1] / 64, sk_ratio=_sk_ratio(skeleton, shapes), **model)
    config.model.stem = "imagenet" if skeleton.deep_stem or stem[0] == 7 else "cifar"
    if "stem" in model:
        config.model.stem = model["stem"]
    small = config.model.stem != "imagenet"
    config.data.update(image_size=32 if small else 224, eval_crop=1.0 if small else 0.875)
    config.head.kind = ("linear" if skeleton.linear_head else "nonlinear") if skeleton.head else "none"
    if skeleton.head:
        config.head.layers = skeleton.head
        config.head.dim = shapes[f"head/dense{skeleton.head}/kernel"][1]
    classes = shapes["classifier/kernel"][1] if skeleton.classifier else None
    if config.model.stem not in choices.STEMS:
        raise UserError(f"--source={place!r}: the stem {config.model.stem!r} is not known.")
    _check_shapes(place, match, shapes, network_shapes(config, classes))
    return config, classes


def _sk_ratio(skeleton: Skeleton, shapes: Shapes) -> float:
    """Width of the mixing networks as a share of the channels; SimCLRv2's, where all have the least width."""
    if not skeleton.selective:
        return 0.0
    usual = 0.0625
    kernels = [shape for name, shape in shapes.items() if name.endswith("mixing_conv1/kernel")]
    if all(mixing == max(int(features * usual), MIN_MIXING_WIDTH) for *_, features, mixing in kernels):
        return usual
    features, mixing = max((features, mixing) for *_, features, mixing in kernels)
    return mixing / features


def network_shapes(config: ConfigDict, classes: int | None) -> Shapes:
    """Our name and shape of every tensor of the network of a pretraining config, perhaps with a classifier on h."""

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return SimCLR(config, classes, rngs=rngs)

    params, batch_stats = state_lib.split(nnx.eval_shape(lambda: make_model(InitRngs(0))))
    return {name: tuple(leaf.shape) for tree in (params, batch_stats) for name, leaf in flatten(tree).items()}


def _check_shapes(place: str, match: Match, found: Shapes, right: Shapes) -> None:
    right = dict(right)
    if match.skeleton.head and "classifier/kernel" in found:
        # It may be on the output of any layer of the head. Its other axis is checked with that.
        right["classifier/kernel"] = (found["classifier/kernel"][0], right["classifier/kernel"][1])
    assert found.keys() == right.keys(), found.keys() ^ right.keys()
    for name, shape in found.items():
        if shape != right[name]:
            raise UserError(
                f"--source={place!r}: {match.names[name]} has the shape {list(shape)}, but a {match.skeleton.describe()} of "
                f"width {found['encoder/stem_conv/kernel'][-1] / 64:g} has {list(right[name])} there (in our layout)."
            )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{"encoder/stem_conv/kernel": leaf, ...}` of nested dictionaries."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries of what `flatten` returned."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *blocks, leaf = name.split("/")
        place = tree
        for block in blocks:
            place = place.setdefault(block, {})
        place[leaf] = value
    return tree
