"""From a source to weights that our networks take: every tensor is used, or named as ignored."""

import dataclasses

import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import infer
from simclr_jax.interchange import state_dicts
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange import tf2_names
from simclr_jax.interchange.base import Options
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.base import WeightSource
from simclr_jax.interchange.base import check_values

LAYOUTS = {"tf1": tf1_names, "tf2": tf2_names}


def read(source: WeightSource, options: Options) -> Weights:
    """Reads all weights of a source.

    Args:
      source: its `ignored` gets the names of heads that are not ours.
      options: for a PyTorch state dict.

    Raises:
      UserError: where they are not those of a network that is known, or not finite; where the file is damaged.
    """
    if source.layout == "torch":
        return state_dicts.read(source, options)
    for name, value in dataclasses.asdict(options).items():
        if value is not None:
            raise UserError(
                f"--{name} is for PyTorch state dicts, but {source.place} is {source.what} of the reference."
            )
    layout = LAYOUTS[source.layout]
    head, linear_head, classifier = layout.heads(source.shapes)
    candidates = infer.skeletons(head, linear_head, classifier)
    match = infer.match(source.place, source.shapes, candidates, layout.names)
    shapes = {ours: source.shapes[name] for ours, name in match.names.items()}
    config, classes = infer.pretrain_config(source.place, match, shapes)
    tensors = {ours: np.asarray(source.read(name), np.float32) for ours, name in match.names.items()}
    check_values(source.place, tensors, match.names)
    return Weights(config, classes, tensors, source.step)
