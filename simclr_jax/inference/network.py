"""The layers between images and an output: features of the encoder or its head, or the probabilities of the classes."""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax.errors import UserError
from simclr_jax.evaluation.setup import output_layer
from simclr_jax.inference.saved import Saved
from simclr_jax.models.heads import LinearClassifier
from simclr_jax.models.init_rngs import InitRngs
from simclr_jax.models.networks import make_encoder
from simclr_jax.models.networks import make_head
from simclr_jax.runtime import sharding
from simclr_jax.training import checkpoint
from simclr_jax.training import state as state_lib

# The output of the classifier; every other output is the name of features: "h", "z", "g1", ...
PROBABILITIES = "probabilities"


class Network(nnx.Module):
    """The layers that an output needs: the encoder, perhaps some of the head, perhaps the classifier.

    Where an image may have several classes, the probability of each class does not depend on the rest.
    """

    def __init__(
        self,
        config: ConfigDict,
        head: ConfigDict | None,
        features: str,
        num_classes: int | None,
        several_classes: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        self.several_classes = several_classes
        self.encoder = make_encoder(config, rngs)
        self.num_features = self.encoder.num_features
        if features != "h":
            self.head = make_head(head, self.encoder, config.compute_dtype, rngs, output_layer(features, head))
            self.num_features = self.head.num_features
        if num_classes is not None:
            self.classifier = LinearClassifier(self.num_features, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        output = self.encoder(images, train=False)
        if hasattr(self, "head"):
            output = self.head(output, train=False)
        if not hasattr(self, "classifier"):
            return output
        logits = self.classifier(output)
        return jax.nn.sigmoid(logits) if self.several_classes else jax.nn.softmax(logits)


class Layers(NamedTuple):
    """The network of an output: how it is built, its graph, its number of features, and its parts of the parameters."""

    make_model: Callable[[nnx.Rngs], Network]
    graph: nnx.GraphDef
    num_features: int
    parts: tuple[str, ...]

    def choose(self, params: Any, batch_stats: Any) -> tuple[Any, Any]:
        """The variables of these layers, out of those of all layers."""
        some_params, some_stats = (
            {name: tree[name] for name in self.parts if name in tree} for tree in (params, batch_stats)
        )
        return some_params, some_stats


@functools.lru_cache(maxsize=64)
def layers(saved: Saved, config: ConfigDict, output: str) -> Layers:
    """The layers of an output. `config` is frozen, so that it can be the key of the cache."""
    of_classes = output == PROBABILITIES
    features = saved.class_features if of_classes else output
    number = len(saved.class_names or ()) if of_classes else None

    def make_model(rngs: nnx.Rngs) -> Network:
        return Network(config, saved.head, features, number, saved.several_classes, rngs=rngs)

    parts = ("encoder", *["head"] * (features != "h"), *["classifier"] * of_classes)
    num_features = nnx.eval_shape(lambda: make_model(InitRngs(0))).num_features
    return Layers(make_model, state_lib.graph_of(make_model), num_features, parts)


def read_variables(saved: Saved, config: ConfigDict, mesh: Mesh) -> tuple[Any, Any]:
    """Parameters and BatchNorm statistics of encoder, head and classifier, as far as they are there."""
    outputs = ["h", *["z"] * (saved.head is not None), *[PROBABILITIES] * (saved.class_names is not None)]
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    for output in outputs:
        make_model = layers(saved, config, output).make_model
        if saved.checkpoint is None:
            of_output = state_lib.init_variables(make_model, saved.seed, mesh)
        else:
            of_output = state_lib.abstract_variables(make_model, mesh)
        params, stats = params | of_output[0], stats | of_output[1]
    if saved.probe is not None:
        shape = params["classifier"]["kernel"].shape
        if saved.probe.kernel.shape != shape:
            raise UserError(
                f"{saved.name} classifies {saved.probe.kernel.shape[0]} features, but the encoder in {saved.checkpoint} has "
                f"{shape[0]}: it is another one."
            )
        del params["classifier"]
    if saved.checkpoint is not None:
        params, stats = checkpoint.load_parts(saved.checkpoint, params, stats)
    if saved.probe is not None:
        probe = {"kernel": saved.probe.kernel, "bias": saved.probe.bias}
        params = params | {"classifier": jax.device_put(probe, sharding.replicated(mesh))}
    return params, stats
