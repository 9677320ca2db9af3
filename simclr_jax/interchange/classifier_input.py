"""On what the classifier of a source is: h, or the output of a layer of the projection head.

SimCLRv2 fine-tunes from the first layer of the head (`--ft_proj_selector=1` of the reference). Hidden layers of the head are as
wide as h, so shapes do not tell.
"""

import logging
import re

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import prove
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.base import WeightSource

log = logging.getLogger("simclr_jax")


def find(source: WeightSource, weights: Weights, given: str | None, theirs: dict[str, np.ndarray]) -> str:
    """One of "h", "g1", "g2", ... or "z": what the classifier of these weights is on.

    Args:
      source, weights: with or without a classifier.
      given: by the user; None: find it.
      theirs: the outputs of the source for `prove.images_for(weights)`; empty where it cannot be run.

    Raises:
      UserError: where `given` does not suit the weights.
    """
    layers = weights.head_layers
    places = ["h", *(f"g{layer}" for layer in range(1, layers)), *(["z"] if layers else [])]
    if weights.classes is None:
        if given is not None:
            raise UserError(f"--classifier_input={given}: {source.place} has no classifier.")
        return "h"
    width = weights.tensors["classifier/kernel"].shape[0]
    widths = _widths(weights, places)
    fitting = [place for place in places if widths[place] == width]
    if given is not None:
        if given not in fitting:
            raise UserError(
                f"--classifier_input={given} does not fit: the classifier has {width} inputs. It can be on "
                f"{' or '.join(fitting) or 'nothing of this network'}."
            )
        return given
    if not fitting:
        raise UserError(
            f"--source={source.place!r}: its classifier has {width} inputs, but this network has "
            f"{', '.join(f'{place} of {widths[place]}' for place in places)}."
        )
    if len(fitting) == 1:
        return fitting[0]
    if "logits" in theirs:
        features = prove.features_of(weights, prove.images_for(weights))
        return min(
            fitting, key=lambda place: prove.difference(prove.logits_of(weights, features[place]), theirs["logits"])
        )
    layer = _layer_in_graph(source.graph) if source.graph is not None else None
    if layer is not None and layer <= layers:
        return places[layer]
    log.warning(
        "%s does not say on what its classifier is; h is assumed. If it was fine-tuned from a layer of the projection head, "
        "as SimCLRv2 does, import it with --classifier_input=g1.",
        source.place,
    )
    return "h"


def _widths(weights: Weights, places: list[str]) -> dict[str, int]:
    last = "bn3" if "encoder/stage4_block1/bn3/scale" in weights.tensors else "bn2"
    widths = dict.fromkeys(places, len(weights.tensors[f"encoder/stage4_block1/{last}/scale"]))
    if weights.head_layers:
        widths["z"] = weights.config.head.dim
    return widths


def _layer_in_graph(path: epath.Path) -> int | None:
    """How many layers of the projection head the classifier's input passes in a TF1 graph; None if that is not to be found."""
    from simclr_jax.runtime.tensorflow import tf

    graph = tf.compat.v1.MetaGraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except Exception:  # the parser's own error, whose type depends on the version of protobuf
        return None
    inputs = {node.name: list(node.input) for node in graph.graph_def.node}
    start = next((name for name in inputs if re.fullmatch(r"head_supervised/linear_layer/dense/MatMul", name)), None)
    if start is None:
        return None
    seen, waiting, layer = set(), [start], 0
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith("base_model/"):
            continue
        seen.add(name)
        match = re.match(r"head_contrastive/(?:nl_(\d+)|l_0)/dense/MatMul$", name)
        if match:
            layer = max(layer, int(match[1] or 0) + 1)
        # An input is "NAME", "NAME:OUTPUT" or, for control only, "^NAME".
        waiting += [one.partition(":")[0] for one in inputs.get(name, []) if not one.startswith("^")]
    return layer
