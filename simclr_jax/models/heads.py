"""Projection head g and linear classifier (paper section 4.2; SimCLRv2 section 3.1; reference tf2/model.py)."""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

from simclr_jax.config import choices
from simclr_jax.models.layers import batch_norm

dense_init = nnx.initializers.normal(0.01)


class ProjectionHead(nnx.Module):
    """The projection head g: maps representations h to the embeddings z that the contrastive loss compares.

    Every layer is a dense layer without bias followed by BatchNorm. Hidden layers are as wide as their input and end with
    ReLU. The last layer has `out_dim` outputs, no ReLU, and a BatchNorm with a scale but no offset.

    Args:
      in_features: width of h.
      kind: "none" (z is h), "linear" (one layer) or "nonlinear" (`num_layers` layers).
      num_layers: number of layers of the nonlinear head, including the last: 2 in SimCLR, 3 in SimCLRv2.
      out_dim: width of z; 128 in the paper.
      output_layer: the layer whose output is returned, counted from 1 (0: h itself); a hidden layer's output includes its
        ReLU. None: the last.
      dtype, param_dtype: dtype of the computation, and of the parameters.
      rngs: Flax random number generators.

    Raises:
      ValueError: for an unknown kind, or an output layer that the head does not have.
    """

    def __init__(
        self,
        in_features: int,
        kind: str = "nonlinear",
        num_layers: int = 2,
        out_dim: int = 128,
        *,
        output_layer: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if kind not in choices.HEADS:
            raise ValueError(f"projection head kind {kind!r} is not one of {choices.HEADS}.")
        self.num_layers = {"none": 0, "linear": 1, "nonlinear": num_layers}[kind]
        self.output_layer = self.num_layers if output_layer is None else output_layer
        if not 0 <= self.output_layer <= self.num_layers:
            raise ValueError(f"output_layer {output_layer} is not a layer of a head of {self.num_layers}.")
        self.dtype = dtype
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width = in_features
        for layer in range(self.num_layers):
            last = layer == self.num_layers - 1
            features = out_dim if last else in_features
            dense = nnx.Linear(in_features, features, use_bias=False, kernel_init=dense_init, **kwargs)
            setattr(self, f"dense{layer + 1}", dense)
            setattr(self, f"bn{layer + 1}", batch_norm(features, use_bias=not last, **kwargs))
        # Hidden layers are as wide as h.
        self.num_features = out_dim if 0 < self.num_layers == self.output_layer else width

    def __call__(self, h: Float[Array, "batch in_features"], *, train: bool) -> Float[Array, "batch num_features"]:
        """Representations to embeddings, in float32 whatever the dtype of the computation (float64 stays float64)."""
        with jax.named_scope("projection_head"):
            z = h.astype(self.dtype)
            for layer in range(self.output_layer):
                z = getattr(self, f"dense{layer + 1}")(z)
                z = getattr(self, f"bn{layer + 1}")(z, use_running_average=not train)
                if layer < self.num_layers - 1:
                    z = nnx.relu(z)
            return z.astype(np.promote_types(z.dtype, np.float32))


class LinearClassifier(nnx.Linear):
    """A linear classifier, which computes in float32 whatever the dtype of the encoder."""

    def __init__(self, in_features: int, num_classes: int, *, param_dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(in_features, num_classes, kernel_init=dense_init, param_dtype=param_dtype, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch features"], out_sharding: Any = None
    ) -> Float[Array, "batch classes"]:
        """Features to logits."""
        with jax.named_scope("linear_classifier"):
            return super().__call__(inputs, out_sharding)
