"""Projection head g and linear classifier (paper section 4.2; SimCLRv2 section 3.1; reference tf2/model.py)."""

from flax import nnx
import jax
import jax.numpy as jnp

from simclr_jax.models.resnet import batch_norm

HEAD_KINDS = ("none", "linear", "nonlinear")

dense_init = nnx.initializers.normal(0.01)


class ProjectionHead(nnx.Module):
    """The projection head g: representations h to embeddings z, on which the contrastive loss acts.

    Every layer is a dense layer without bias followed by BatchNorm. Hidden layers are as wide as their input, with ReLU;
    the last layer has `out_dim` outputs, no ReLU, and a BatchNorm with a scale but no offset.

    Args:
      in_features: width of h.
      kind: "none" (z is h), "linear" (one layer) or "nonlinear" (`num_layers` layers).
      num_layers: of the nonlinear head, the last one included: 2 in SimCLR, 3 in SimCLRv2.
      out_dim: width of z; 128 in the paper.
      output_layer: whose output is returned instead of z, from 1; with its ReLU where it is a hidden one. None: the last.
      dtype, param_dtype: of the computation, of the parameters.
      rngs: Flax random number generators.
    """

    def __init__(
        self,
        in_features: int,
        kind: str = "nonlinear",
        num_layers: int = 2,
        out_dim: int = 128,
        *,
        output_layer: int | None = None,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if kind not in HEAD_KINDS:
            raise ValueError(f"projection head kind {kind!r} is not one of {HEAD_KINDS}.")
        self.num_layers = {"none": 0, "linear": 1, "nonlinear": num_layers}[kind]
        self.output_layer = self.num_layers if output_layer is None else output_layer
        if not 0 <= self.output_layer <= self.num_layers:
            raise ValueError(f"output_layer {output_layer} is not a layer of a head of {self.num_layers}.")
        self.dtype = dtype
        kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width = in_features
        for layer in range(self.num_layers):
            last = layer == self.num_layers - 1
            features = out_dim if last else in_features
            dense = nnx.Linear(in_features, features, use_bias=False, kernel_init=dense_init, **kwargs)
            setattr(self, f"dense{layer + 1}", dense)
            setattr(self, f"bn{layer + 1}", batch_norm(features, use_bias=not last, **kwargs))
        # Hidden layers are as wide as h.
        self.num_features = out_dim if 0 < self.num_layers == self.output_layer else width

    def __call__(self, h: jax.Array, *, train: bool) -> jax.Array:
        """Representations `[batch, in_features]` to float32 embeddings `[batch, num_features]`."""
        z = h.astype(self.dtype)
        for layer in range(self.output_layer):
            z = getattr(self, f"dense{layer + 1}")(z)
            z = getattr(self, f"bn{layer + 1}")(z, use_running_average=not train)
            if layer < self.num_layers - 1:
                z = nnx.relu(z)
        return z.astype(jnp.promote_types(z.dtype, jnp.float32))


class LinearClassifier(nnx.Linear):
    """Logits of a linear classifier, in float32 whatever the encoder computes in: `[batch, features]` to `[batch, classes]`."""

    def __init__(self, in_features: int, num_classes: int, *, param_dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(in_features, num_classes, kernel_init=dense_init, param_dtype=param_dtype, rngs=rngs)
