"""Run networks over views of some images: h and z of each view, and its colour histogram."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment.image_files import Decoding
from simclr_jax.data import pipeline
from simclr_jax.data.order import HostShard
from simclr_jax.data.sources.base import Source
from simclr_jax.diagnosis import colour
from simclr_jax.errors import UserError
from simclr_jax.inference import network
from simclr_jax.inference.encoder import Encoder
from simclr_jax.inference.saved import Saved
from simclr_jax.training import steps

# Names of what is measured: the networks, and the colour histograms.
PRETRAINED, UNTRAINED, COLOUR = "pretrained", "untrained", "colour"

# Of order and views, whatever the seed of the run: every run is asked the same questions.
SEED = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to run over views: uint8 `[n, size, size, 3]` to float32 `{"h": [n, features], "z": [n, dim]}`.

    Without a projection head there is only h.
    """

    name: str
    forward: Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Images:
    """The first images of the shuffled order of a source, and how to see them.

    Attributes:
      source: of the images.
      count: how many of them.
      data: `config.data`, for the size of the views and the share of unreadable images.
      batch_size: images at once, a multiple of the devices.
    """

    source: Source
    count: int
    data: ConfigDict
    batch_size: int

    def views(self, augment: ConfigDict, num_views: int) -> Iterator[np.ndarray]:
        """uint8 `[rows, num_views, size, size, 3]`, in all `count` rows. The same images in the same order in every call."""
        shard = HostShard(self.batch_size, num_steps=-(-self.count // self.batch_size))
        bad_images = pipeline.BadImages(self.source, self.data.max_bad_fraction)
        left = self.count
        batches = pipeline.train_batches(
            self.source,
            augment,
            num_views=num_views,
            size=self.data.image_size,
            shard=shard,
            seed=SEED,
            bad_images=bad_images,
            decoding=Decoding.of(self.data),
        )
        for batch in batches:
            yield batch["views"][:left]
            left -= self.batch_size


def network_of(name: str, encoder: Encoder) -> Network:
    """The network of an encoder, with its projection head where it has one."""
    return _network(name, encoder, encoder.saved, encoder.variables)


def untrained_network_of(name: str, encoder: Encoder) -> Network:
    """The same network with its initial weights, as `config.init=random` evaluates it."""
    saved = dataclasses.replace(encoder.saved, checkpoint=None, class_names=None, probe=None)
    variables = network.read_variables(saved, encoder.config, encoder.mesh)
    return _network(name, encoder, saved, variables)


def _network(name: str, encoder: Encoder, saved: Saved, variables: tuple[Any, Any]) -> Network:
    has_head = saved.head is not None
    layers = network.layers(saved, encoder.config, "z" if has_head else "h")
    chosen = layers.choose(*variables)
    features = network.layers(saved, encoder.config, "h").num_features
    jitted = steps.make_forward(layers.graph, _both, encoder.mesh)

    def forward(images: np.ndarray) -> dict[str, np.ndarray]:
        output = np.asarray(jitted(*chosen, {"image": images})["output"])
        if not np.isfinite(output).all():
            raise UserError(
                f"{encoder}: the representations have values that are not finite. Its training has diverged; lower "
                "config.optimizer.learning_rate."
            )
        return {"h": output[:, :features]} | ({"z": output[:, features:]} if has_head else {})

    return Network(name, forward)


def _both(model: nnx.Module, images: jax.Array) -> jax.Array:
    """h and, where there is a head, z after it: `[batch, features + dim]`."""
    h = model.encoder(images, train=False)  # type: ignore[attr-defined]
    return jnp.concatenate([h, model.head(h, train=False)], axis=1) if hasattr(model, "head") else h


def represent(
    some: Sequence[Network], images: Images, augment: ConfigDict, num_views: int
) -> dict[str, dict[str, np.ndarray]]:
    """Runs networks over views of images.

    Args:
      some: the networks; all see the same views.
      images: which images.
      augment: `config.augment` of the views.
      num_views: of each image.

    Returns:
      A dict for each network: "h", float32 `[count, num_views, features]`, and "z". Under the name `COLOUR`, as "h", the
      histograms of the views.
    """
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for views in images.views(augment, num_views):
        flat = views.reshape(-1, *views.shape[2:])
        for name, output in represent_all(some, flat, images.batch_size).items():
            for key, value in output.items():
                shaped = value.reshape(len(views), num_views, -1)
                parts.setdefault(name, {}).setdefault(key, []).append(shaped)
    return {name: {key: np.concatenate(of_key) for key, of_key in of.items()} for name, of in parts.items()}


def represent_all(some: Sequence[Network], images: np.ndarray, batch_size: int) -> dict[str, dict[str, np.ndarray]]:
    """The representations of uint8 images `[n, size, size, 3]` by network, of their histograms by `COLOUR`: `[n, d]`."""
    outputs = {one.name: _in_batches(one, images, batch_size) for one in some}
    return outputs | {COLOUR: {"h": colour.histogram(images)}}


def _in_batches(one: Network, images: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """In batches of one size, so that the network is compiled once; the last one is padded."""
    outputs = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padded = np.concatenate([batch, np.zeros_like(images[:1]).repeat(size - len(batch), axis=0)])
        outputs.append({key: value[: len(batch)] for key, value in one.forward(padded).items()})
    return {key: np.concatenate([output[key] for output in outputs]) for key in outputs[0]}
