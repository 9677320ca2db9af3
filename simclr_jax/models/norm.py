"""BatchNorm with few passes over the activations, since a convolutional step spends its time on those passes.

Every form computes y = x * factor + offset, with one factor and one offset for each feature. (In training, features that
are pooled over all pixels are centred first: there a pass costs nothing, and accuracy suffers most.) Mean, variance, factor and
offset are float32 (float64 in a float64 computation) whatever the dtype of the activations.
"""

import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

HIGHEST = lax.Precision.HIGHEST

Features = Float[Array, " features"]


def accumulator(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of sums over the batch: float32 at least."""
    return np.promote_types(jnp.dtype(dtype), np.float32)


class BatchNorm(nnx.BatchNorm):
    """`flax.nnx.BatchNorm` over the last axis, computed in float32 until the result is rounded to `dtype`.

    Flax rounds the offset (and in evaluation the stored mean and variance) to `dtype` first. On a TPU the gradient of a
    bfloat16 offset then costs an extra pass over the activations.
    """

    def __call__(  # type: ignore[override]  # fewer arguments than Flax's, and none with a default
        self, x: Float[Array, "*batch features"], *, use_running_average: bool
    ) -> Float[Array, "*batch features"]:
        """Normalise `x` by its own statistics, which also move the running ones, or by the running ones."""
        if not use_running_average and math.prod(x.shape[1:-1]) == 1:
            return self._normalise_pooled(x)
        return self.apply(x, *self.affine(None if use_running_average else moments(x)))

    def _normalise_pooled(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """Normalise one number for each image and feature by the statistics of the batch, in two passes.

        A mean over all pixels differs little between images, compared with its size. Then E[x^2] - E[x]^2 loses most of
        its digits, and so does x * factor - mean * factor. So the mean is subtracted first; here a second pass is cheap.
        """
        x = x.astype(accumulator(x.dtype))
        axes = tuple(range(x.ndim - 1))
        mean = jnp.mean(x, axes)
        centred = x - mean
        factor, _ = self.affine((mean, jnp.mean(centred * centred, axes)))
        return self.apply(centred, factor, jnp.zeros_like(factor) if self.bias is None else self.bias[...])

    def affine(self, moments: tuple[Features, Features] | None) -> tuple[Features, Features]:
        """Factor and offset.

        Args:
          moments: mean and biased variance of this batch, which also update the running ones; None: use the running ones.
        """
        mean, var = (self.mean[...], self.var[...]) if moments is None else moments
        if moments is not None:
            for running, batch_value in ((self.mean, mean), (self.var, var)):
                batch_value = lax.stop_gradient(batch_value).astype(running.dtype)
                running[...] = self.momentum * running[...] + (1 - self.momentum) * batch_value
        dtype = accumulator(self.dtype)  # type: ignore[arg-type]  # never None here
        factor = lax.rsqrt(var.astype(dtype) + self.epsilon) * self.scale[...]  # type: ignore[index]  # never None here
        offset = -mean.astype(dtype) * factor
        return factor, offset if self.bias is None else offset + self.bias[...]

    def apply(
        self, x: Float[Array, "*batch features"], factor: Features, offset: Features
    ) -> Float[Array, "*batch features"]:
        """`x * factor + offset`, rounded to `dtype`."""
        x = x.astype(np.promote_types(x.dtype, factor.dtype))
        return (x * factor + offset).astype(self.dtype)


def moments(x: Float[Array, "*batch features"]) -> tuple[Features, Features]:
    """Mean and biased variance of every feature, in one pass."""
    x = x.astype(accumulator(x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)


# --- A 1x1 convolution fused with its BatchNorm ---------------------------------------------------------------------
#
# The output z = x W of a 1x1 convolution has mean(z) = mean(x) W and mean(z^2) = diag(W' C W), where C = mean(x' x) is a
# small matrix. So its statistics are known before z is computed. The normalisation and what follows can then be fused
# into the product, and z, which in a bottleneck block is four times as large as x, is never stored. The gradients do not
# need z either: sum(dy * z) = diag(W' (x' dy)), and x' dy is needed anyway.


def conv1x1_bn(
    conv: nnx.Conv,
    bn: BatchNorm,
    x: Float[Array, "batch height width channels"],
    shortcut: Float[Array, "batch out_height out_width features"] | None = None,
    *,
    train: bool,
) -> Float[Array, "batch out_height out_width features"]:
    """`bn(conv(x))`, or with a shortcut `relu(bn(conv(x)) + shortcut)`, for a 1x1 convolution without bias.

    Args:
      conv, bn: the two layers.
      x: activations in the dtype of the computation, which is also that of the result.
      shortcut: added before a ReLU; None: neither.
      train: whether to normalise by the statistics of this batch, and update the running ones.
    """
    stride_h, stride_w = conv.strides  # type: ignore[misc]  # a pair, as resnet.conv makes it
    x = x[:, ::stride_h, ::stride_w]
    kernel = conv.kernel[0, 0].astype(x.dtype)
    if conv.out_features < 4 * conv.in_features:  # here x' x costs more than it saves
        y = bn(_times(x, kernel).astype(x.dtype), use_running_average=not train)
        return y if shortcut is None else nnx.relu(y + shortcut)
    batch_moments = None
    if train:
        wide = kernel.astype(accumulator(x.dtype))
        mean_x, products = second_moments(x)
        mean = jnp.dot(mean_x, wide, precision=HIGHEST)
        square = jnp.sum(wide * jnp.dot(products, wide, precision=HIGHEST), axis=0)
        batch_moments = mean, jnp.maximum(square - mean * mean, 0)
    return scaled_product(x, kernel, *bn.affine(batch_moments), shortcut)


@jax.custom_vjp
def second_moments(
    x: Float[Array, "*batch channels"],
) -> tuple[Float[Array, " channels"], Float[Array, "channels channels"]]:
    """mean(x) and mean(x' x) over all axes but the last."""
    count = x.size // x.shape[-1]
    # The sum is written as a product with ones: the matrix unit of a TPU computes it together with x' x, where a
    # reduction would cost an extra pass over x. The barrier keeps the compiler from rewriting the product as a sum.
    ones = lax.optimization_barrier(jnp.ones((len(x), 8), x.dtype))
    ones = jnp.broadcast_to(ones.reshape(len(x), *(1,) * (x.ndim - 2), 8), (*x.shape[:-1], 8))
    # The variance is a difference of these, so the factors must not be rounded (from float32 to bfloat16 or TF32).
    precision = HIGHEST if x.dtype == jnp.float32 else None
    return _outer(ones, x, precision)[0] / count, _outer(x, x, precision) / count


def _second_moments_backward(x, cotangents):
    d_mean, d_products = cotangents
    # One product. Differentiating x' x directly would give one for each factor.
    dx = _times(x, (d_products + d_products.T).astype(x.dtype)) + d_mean
    return ((dx / (x.size // x.shape[-1])).astype(x.dtype),)


second_moments.defvjp(lambda x: (second_moments(x), x), _second_moments_backward)


@jax.custom_vjp
def scaled_product(
    x: Float[Array, "*batch channels"],
    kernel: Float[Array, "channels features"],
    factor: Features,
    offset: Features,
    shortcut: Float[Array, "*batch features"] | None,
) -> Float[Array, "*batch features"]:
    """`x @ kernel * factor + offset`, or relu of that + shortcut if there is one, without storing x @ kernel."""
    y = _times(x, kernel) * factor + offset
    return (y if shortcut is None else jnp.maximum(y + shortcut.astype(y.dtype), 0)).astype(x.dtype)


def _scaled_product_forward(x, kernel, factor, offset, shortcut):
    out = scaled_product(x, kernel, factor, offset, shortcut)
    return out, (x, kernel, factor, None if shortcut is None else out)


def _scaled_product_backward(saved, dy):
    x, kernel, factor, out = saved
    if out is not None:
        dy = jnp.where(out > 0, dy, 0)
    products = _outer(x, dy)
    d_offset = jnp.sum(dy.astype(products.dtype), tuple(range(dy.ndim - 1)))
    dx = _times(dy, (kernel.astype(factor.dtype) * factor).astype(x.dtype).T).astype(x.dtype)
    d_factor = jnp.sum(products * kernel.astype(products.dtype), axis=0)
    return dx, (products * factor).astype(kernel.dtype), d_factor, d_offset, None if out is None else dy


scaled_product.defvjp(_scaled_product_forward, _scaled_product_backward)


def _times(
    x: Float[Array, "*batch channels"], kernel: Float[Array, "channels features"]
) -> Float[Array, "*batch features"]:
    """The matrix product, not rounded to the dtype of the factors."""
    return jnp.dot(x, kernel, preferred_element_type=accumulator(x.dtype))


def _outer(
    x: Float[Array, "*batch channels"], y: Float[Array, "*batch features"], precision: lax.Precision | None = None
) -> Float[Array, "channels features"]:
    """The sum of x' y over all axes but the last, not rounded to the dtype of the factors."""
    return jnp.einsum("...i,...o->io", x, y, preferred_element_type=accumulator(x.dtype), precision=precision)
