"""Run the source and our network on the same images, and compare."""

import logging
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import infer
from simclr_jax.interchange import torch_forward
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.base import WeightSource
from simclr_jax.models.networks import SimCLR
from simclr_jax.training import state as state_lib

log = logging.getLogger("simclr_jax")

# Largest difference over largest value. Both compute in float32, so more than this is another network.
TOLERANCE = 1e-4
IMAGES = 2
_OUTPUTS = {"h": "final_avg_pool", "z": "proj_head_output", "logits": "logits_sup"}


def images_for(weights: Weights) -> np.ndarray:
    """Random images, float32 `[2, size, size, 3]` in [0, 1]: small ones, so that it takes seconds."""
    size = 64 if weights.config.model.stem == "imagenet" else 32
    return np.random.default_rng(0).uniform(size=(IMAGES, size, size, 3)).astype(np.float32)


def features_of(weights: Weights, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a classifier can be on: h, the outputs of the head's hidden layers g1, g2, ..., and z.

    Args:
      weights: of the network.
      images: float32 `[n, height, width, 3]` in [0, 1].
    """

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return SimCLR(weights.config, None, rngs=rngs)

    graph = state_lib.graph_of(make_model)
    flat = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("classifier/")}
    params = infer.unflatten({name: tensor for name, tensor in flat.items() if not _is_statistic(name)})
    batch_stats = infer.unflatten({name: tensor for name, tensor in flat.items() if _is_statistic(name)})
    layers = weights.head_layers

    @jax.jit
    def run(params, batch_stats, images):
        model: Any = state_lib.merge(graph, params, batch_stats)
        outputs = {"h": model.encoder(images, train=False)}
        for layer in range(1, layers + 1):
            model.head.output_layer = layer
            outputs["z" if layer == layers else f"g{layer}"] = model.head(outputs["h"], train=False)
        return outputs

    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(params, batch_stats, jnp.asarray(images)))


def _is_statistic(name: str) -> bool:
    return name.endswith(("/mean", "/var"))


def logits_of(weights: Weights, features: np.ndarray) -> np.ndarray:
    """The outputs of the classifier, float32 `[n, classes]`."""
    return features @ weights.tensors["classifier/kernel"] + weights.tensors["classifier/bias"]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))


def run_source(source: WeightSource, weights: Weights) -> dict[str, np.ndarray]:
    """Some of h, z and logits of the source for `images_for(weights)`; empty where it cannot be run."""
    images = images_for(weights)
    if source.module is not None:
        return _run_saved_model(source, images)
    if source.layout == "torch":
        return torch_forward.run(source, weights.config.model, images) or {}
    return {}


def _run_saved_model(source: WeightSource, images: np.ndarray) -> dict[str, np.ndarray]:
    try:
        outputs = source.module(images, trainable=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--source={source.place!r} cannot be run as the reference's SavedModels are: {error}"
        ) from error
    return {ours: outputs[name].numpy() for ours, name in _OUTPUTS.items() if name in outputs}


def compare(
    source: WeightSource, weights: Weights, classifier_input: str, theirs: dict[str, np.ndarray]
) -> dict[str, float]:
    """Our network's differences from the source's outputs for `images_for(weights)`.

    Args:
      source: for messages.
      weights: of our network.
      classifier_input: "h", "g1", ... or "z".
      theirs: from `run_source`.

    Raises:
      UserError: where a difference is larger than `TOLERANCE`.
    """
    ours = features_of(weights, images_for(weights))
    if weights.classes is not None:
        ours["logits"] = logits_of(weights, ours[classifier_input])
    differences = {name: difference(ours[name], value) for name, value in theirs.items() if name in ours}
    for name, value in differences.items():
        if not value <= TOLERANCE:
            raise UserError(
                f"--source={source.place!r}: the imported network computes another {name} than the source; the largest "
                f"difference is {value:.2g} of the largest value. Nothing was written."
            )
    return differences
