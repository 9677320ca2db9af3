"""BatchNorm, written so that few passes over activations are needed: those are what a convolutional step spends its time on.

Everything is y = x * factor + offset with one factor and one offset for each feature. Mean, variance, factor and offset
are float32 (float64 where the computation is) whatever dtype the activations have.
"""

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

HIGHEST = lax.Precision.HIGHEST


def accumulator(dtype) -> jnp.dtype:
    """What sums over the batch are held in."""
    return jnp.promote_types(dtype, jnp.float32)


class BatchNorm(nnx.BatchNorm):
    """`flax.nnx.BatchNorm` over the last axis, whose numbers stay float32 until the result is rounded.

    Flax's own rounds the offset (and in evaluation the stored mean and variance) to `dtype` first, and the gradient of a
    bfloat16 offset is a pass over the activations of its own on a TPU.
    """

    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        """`[..., features]` to the same shape, in `dtype`."""
        return self.apply(x, *self.affine(None if use_running_average else moments(x)))

    def affine(self, moments: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array]:
        """Factor and offset, `[features]`.

        Args:
          moments: mean and biased variance of this batch, which also move the running ones; None: take those.
        """
        mean, var = (self.mean[...], self.var[...]) if moments is None else moments
        if moments is not None:
            for running, of_batch in ((self.mean, mean), (self.var, var)):
                of_batch = lax.stop_gradient(of_batch).astype(running.dtype)
                running[...] = self.momentum * running[...] + (1 - self.momentum) * of_batch
        dtype = accumulator(self.dtype)
        factor = lax.rsqrt(var.astype(dtype) + self.epsilon) * self.scale[...]
        offset = -mean.astype(dtype) * factor
        return factor, offset if self.bias is None else offset + self.bias[...]

    def apply(self, x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
        return (x * factor + offset).astype(self.dtype)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of every feature, in one pass: `[..., features]` to twice `[features]`."""
    x = x.astype(accumulator(x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)


# --- A 1x1 convolution and its BatchNorm at once --------------------------------------------------------------------
#
# The output z = x W of a 1x1 convolution has mean(z) = mean(x) W and mean(z^2) = diag(W' C W), where C = mean(x' x) is a
# small matrix. So the statistics are known before z is, normalising and all that follows can be done where z is made, and
# z, which in a bottleneck block is four times as large as x, is never stored. Nor is it for the gradients, since
# sum(dy * z) = diag(W' (x' dy)), and x' dy is needed anyway.


def conv1x1_bn(conv: nnx.Conv, bn: BatchNorm, x: jax.Array, shortcut: jax.Array | None = None, *, train: bool):
    """`bn(conv(x))`, or with a shortcut `relu(bn(conv(x)) + shortcut)`, for a 1x1 convolution without bias.

    Args:
      x: `[batch, height, width, in]` in the dtype of the computation.
      shortcut: `[batch, out height, out width, out]`.

    Returns:
      The shape of `shortcut`, in the dtype of x.
    """
    stride_h, stride_w = conv.strides
    x = x[:, ::stride_h, ::stride_w]
    kernel = conv.kernel[0, 0].astype(x.dtype)
    if conv.out_features < 4 * conv.in_features:  # then x' x costs more than it saves
        y = bn(_times(x, kernel).astype(x.dtype), use_running_average=not train)
        return y if shortcut is None else nnx.relu(y + shortcut)
    found = None
    if train:
        wide = kernel.astype(accumulator(x.dtype))
        mean_x, products = second_moments(x)
        mean = jnp.dot(mean_x, wide, precision=HIGHEST)
        square = jnp.sum(wide * jnp.dot(products, wide, precision=HIGHEST), axis=0)
        found = mean, jnp.maximum(square - mean * mean, 0)
    return scaled_product(x, kernel, *bn.affine(found), shortcut)


@jax.custom_vjp
def second_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """mean(x) and mean(x' x) over all but the last axis: `[..., in]` to `[in]` and `[in, in]`."""
    count = x.size // x.shape[-1]
    # A sum as a product with ones (behind a barrier, or else the compiler turns it back into a sum): a TPU's matrix unit
    # does it in passing, and a reduction would be a pass over x of its own.
    ones = lax.optimization_barrier(jnp.ones((len(x), 8), x.dtype))
    ones = jnp.broadcast_to(ones.reshape(len(x), *(1,) * (x.ndim - 2), 8), (*x.shape[:-1], 8))
    # The variance is a difference of these: rounding the factors (float32 to bfloat16 or TF32) would be too much for it.
    precision = HIGHEST if x.dtype == jnp.float32 else None
    return _outer(ones, x, precision)[0] / count, _outer(x, x, precision) / count


def _second_moments_backward(x, cotangents):
    of_mean, of_products = cotangents
    # One product, where differentiating x' x by itself would give one for each factor.
    dx = _times(x, (of_products + of_products.T).astype(x.dtype)) + of_mean
    return ((dx / (x.size // x.shape[-1])).astype(x.dtype),)


second_moments.defvjp(lambda x: (second_moments(x), x), _second_moments_backward)


@jax.custom_vjp
def scaled_product(
    x: jax.Array, kernel: jax.Array, factor: jax.Array, offset: jax.Array, shortcut: jax.Array | None
) -> jax.Array:
    """`x @ kernel * factor + offset`, and relu(... + shortcut) where there is one, without x @ kernel being stored."""
    y = _times(x, kernel) * factor + offset
    return (y if shortcut is None else jnp.maximum(y + shortcut, 0)).astype(x.dtype)


def _scaled_product_forward(x, kernel, factor, offset, shortcut):
    out = scaled_product(x, kernel, factor, offset, shortcut)
    return out, (x, kernel, factor, None if shortcut is None else out)


def _scaled_product_backward(saved, dy):
    x, kernel, factor, out = saved
    if out is not None:
        dy = jnp.where(out > 0, dy, 0)
    products = _outer(x, dy)
    d_offset = jnp.sum(dy.astype(products.dtype), tuple(range(dy.ndim - 1)))
    dx = _times(dy, (kernel * factor).astype(x.dtype).T).astype(x.dtype)
    d_factor = jnp.sum(products * kernel, axis=0)
    return dx, (products * factor).astype(kernel.dtype), d_factor, d_offset, None if out is None else dy


scaled_product.defvjp(_scaled_product_forward, _scaled_product_backward)


def _times(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., in]` by `[in, out]`, not rounded to the dtype of the factors."""
    return jnp.dot(x, kernel, preferred_element_type=accumulator(x.dtype))


def _outer(x: jax.Array, y: jax.Array, precision: lax.Precision | None = None) -> jax.Array:
    """The sum of x' y over all but the last axes: `[..., in]` and `[..., out]` to `[in, out]`, not rounded either."""
    return jnp.einsum("...i,...o->io", x, y, preferred_element_type=accumulator(x.dtype), precision=precision)
