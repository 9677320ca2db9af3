"""The networks to train: encoder + projection head (pretraining), encoder + classifier (linear probe, fine-tuning)."""

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.models.heads import LinearClassifier
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.resnet import ResNet


def dtypes(compute_dtype: str) -> dict[str, jnp.dtype]:
    """Compute in `compute_dtype`; keep parameters in float32, or in float64 where that is it (for the tests)."""
    dtype = jnp.dtype(compute_dtype)
    return {"dtype": dtype, "param_dtype": np.promote_types(dtype, np.float32)}


def make_encoder(config: ConfigDict, rngs: nnx.Rngs) -> ResNet:
    """Build the encoder that `config.model` describes, with `config.compute_dtype` and `config.remat`."""
    model = config.model
    return ResNet(
        model.depth,
        model.width,
        model.stem,
        sk_ratio=model.sk_ratio,
        padding=model.padding,
        stage1_projection=model.stage1_projection,
        input_mean=tuple(model.input_mean),
        input_std=tuple(model.input_std),
        remat=config.remat,
        **dtypes(config.compute_dtype),
        rngs=rngs,
    )


def make_head(
    head: ConfigDict, encoder: ResNet, compute_dtype: str, rngs: nnx.Rngs, output_layer: int | None = None
) -> ProjectionHead:
    """Build the projection head that `config.head` describes, for the representations of `encoder`.

    It returns z, or the output of `output_layer` (see `ProjectionHead`).
    """
    return ProjectionHead(
        encoder.num_features,
        head.kind,
        head.layers,
        head.dim,
        output_layer=output_layer,
        **dtypes(compute_dtype),
        rngs=rngs,
    )


class SimCLR(nnx.Module):
    """Encoder, projection head and, optionally, an online linear classifier on stop-gradient representations.

    Args:
      config: a pretraining config (`model`, `head`, `compute_dtype`, `remat`).
      num_classes: number of classes of the online classifier; None: no classifier.
      rngs: Flax random number generators.
    """

    def __init__(self, config: ConfigDict, num_classes: int | None, *, rngs: nnx.Rngs):
        self.encoder = make_encoder(config, rngs)
        self.head = make_head(config.head, self.encoder, config.compute_dtype, rngs)
        if num_classes is not None:
            param_dtype = dtypes(config.compute_dtype)["param_dtype"]
            self.classifier = LinearClassifier(
                self.encoder.num_features, num_classes, param_dtype=param_dtype, rngs=rngs
            )

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool
    ) -> tuple[Float[Array, "batch features"], Float[Array, "batch dim"]]:
        """Images in [0, 1] to representations h and embeddings z, both float32."""
        h = self.encoder(images, train=train)
        return h, self.head(h, train=train)


class Classifier(nnx.Module):
    """Encoder and linear classifier.

    Args:
      encoder: the encoder.
      num_classes: number of outputs.
      head: a projection head between encoder and classifier. The classifier then sees its output instead of h: z = g(h)
        (paper Table 3), or the output of a hidden layer (SimCLRv2 section 4.2).
      frozen: whether encoder and head are frozen: they use their stored BatchNorm statistics and get no gradient.
      frozen_statistics: whether they use their stored BatchNorm statistics in training too, without changing them.
      rngs: Flax random number generators.
    """

    def __init__(
        self,
        encoder: ResNet,
        num_classes: int,
        *,
        head: ProjectionHead | None = None,
        frozen: bool,
        frozen_statistics: bool = False,
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        if head is not None:
            self.head = head
        self.uses_head = head is not None
        self.frozen = frozen
        self.frozen_statistics = frozen or frozen_statistics
        features = head.num_features if head is not None else encoder.num_features
        self.classifier = LinearClassifier(features, num_classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool
    ) -> Float[Array, "batch num_classes"]:
        """Images in [0, 1] to float32 logits."""
        train = train and not self.frozen_statistics
        features = self.encoder(images, train=train)
        if self.uses_head:
            features = self.head(features, train=train)
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        return self.classifier(features)
