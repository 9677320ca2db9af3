"""A convolution that is also fast where its output is tiny."""

import jax
from jax import lax
import jax.numpy as jnp

# Outputs of at most this many pixels a side are computed as one matrix product. XLA's CPU backend runs a 3x3
# convolution on 2x2 pixels, and its gradients, about 50 times slower than the same product (benchmarks: the last stage
# of a ResNet on 16 px images, or the stem of the ImageNet kind on 32 px ones); elsewhere the two cost about the same.
TINY = 2


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    precision=None,
    **kwargs,
) -> jax.Array:
    """`lax.conv_general_dilated` for `flax.nnx.Conv`, NHWC by HWIO, with explicit padding and no dilation."""
    num, height, width, _ = lhs.shape
    kernel_h, kernel_w, _, features = rhs.shape
    (stride_h, stride_w), ((top, bottom), (left, right)) = window_strides, padding
    out_h = (height + top + bottom - kernel_h) // stride_h + 1
    out_w = (width + left + right - kernel_w) // stride_w + 1
    if max(out_h, out_w) > TINY or feature_group_count != 1:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
            **kwargs,
        )
    padded = jnp.pad(lhs, ((0, 0), (top, bottom), (left, right), (0, 0)))
    patches = [
        padded[:, i : i + stride_h * (out_h - 1) + 1 : stride_h, j : j + stride_w * (out_w - 1) + 1 : stride_w]
        for i in range(kernel_h)
        for j in range(kernel_w)
    ]
    patches = jnp.concatenate(patches, axis=-1).reshape(num * out_h * out_w, -1)
    out = jnp.dot(patches, rhs.reshape(-1, features), precision=precision)
    return out.reshape(num, out_h, out_w, features)
