"""The networks that are trained: encoder + projection head (pretraining), encoder + classifier (probe, fine-tuning)."""

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from simclr_jax.models.heads import LinearClassifier
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.resnet import ResNet


def make_encoder(model: ConfigDict, compute_dtype: str, rngs: nnx.Rngs) -> ResNet:
    """The encoder that `config.model` describes."""
    return ResNet(model.depth, model.width, model.stem, dtype=jnp.dtype(compute_dtype), rngs=rngs)


class SimCLR(nnx.Module):
    """Encoder, projection head and, if asked for, an online linear classifier on stop-gradient representations.

    Args:
      config: a pretraining config (`model`, `head`, `compute_dtype`).
      num_classes: of the online classifier; None for none.
      rngs: Flax random number generators.
    """

    def __init__(self, config: ConfigDict, num_classes: int | None, *, rngs: nnx.Rngs):
        self.encoder = make_encoder(config.model, config.compute_dtype, rngs)
        self.head = ProjectionHead(
            self.encoder.num_features,
            config.head.kind,
            config.head.layers,
            config.head.dim,
            dtype=jnp.dtype(config.compute_dtype),
            rngs=rngs,
        )
        if num_classes is not None:
            self.classifier = LinearClassifier(self.encoder.num_features, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Float images `[batch, height, width, 3]` in [0, 1] to (h `[batch, features]`, z `[batch, dim]`)."""
        h = self.encoder(images, train=train)
        return h, self.head(h, train=train)


class Classifier(nnx.Module):
    """Encoder and linear classifier. A frozen encoder runs with its stored BatchNorm statistics and gets no gradient.

    With a `head`, the classifier sees z = g(h) instead of h (paper Table 3); the head is frozen with the encoder.
    """

    def __init__(self, encoder: ResNet, num_classes: int, *, head: ProjectionHead | None = None, frozen: bool, rngs):
        self.encoder = encoder
        if head is not None:
            self.head = head
        self.uses_head = head is not None
        self.frozen = frozen
        features = head.num_features if head is not None else encoder.num_features
        self.classifier = LinearClassifier(features, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float images `[batch, height, width, 3]` in [0, 1] to float32 logits `[batch, num_classes]`."""
        train = train and not self.frozen
        features = self.encoder(images, train=train)
        if self.uses_head:
            features = self.head(features, train=train)
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        return self.classifier(features)
