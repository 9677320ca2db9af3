"""Convolutions that are fast on CPUs too: by oneDNN where it is installed, with faster gradients and tiny outputs where not.

Other platforms use XLA's own.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

from simclr_jax.onednn import convolutions as onednn
from simclr_jax.onednn.library import Geometry

# Outputs of at most this many pixels a side are computed as one matrix product. XLA's CPU backend runs a 3x3
# convolution on 2x2 pixels, and its gradients, about 50 times slower than that product. The last stage of a ResNet has such
# outputs on 16 px images with the CIFAR stem, or 32 px images with the ImageNet stem. Other backends take about the same
# time for both.
TINY = 2

# Bytes of patches in one product of the kernel gradient: about one core's share of the cache. Measured on 2 cores with
# 1 to 10 MiB: 4 to 5 MiB is within 10 % of the best for sizes from 4x4 pixels of 512 channels to 32x32 pixels of 64.
PATCHES_BYTES = 5 * 2**20

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]

Images = Float[Array, "batch height width channels"]
Outputs = Float[Array, "batch out_height out_width features"]
Kernel = Float[Array, "kernel_height kernel_width channels features"]


def conv_general_dilated(
    lhs: Images,
    rhs: Kernel,
    window_strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **kwargs: Any,
) -> Outputs:
    """`lax.conv_general_dilated` for `flax.nnx.Conv`: NHWC by HWIO, with explicit padding, no dilation and no groups.

    Args:
      lhs, rhs: images and kernel, of the same dtype.
      window_strides: of height and width.
      padding: pixels before and after, of height and of width.
      precision: of the matrix product for tiny outputs.
      lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, kwargs: what `flax.nnx.Conv` passes; not used.
    """
    stride_h, stride_w = window_strides
    (top, bottom), (left, right) = padding
    strides, pads = (stride_h, stride_w), ((top, bottom), (left, right))
    window = (rhs.shape[0], rhs.shape[1])
    if max(_output_size(lhs, window, strides, pads)) <= TINY:
        patches = _patches(lhs, window, strides, pads)
        return jnp.dot(patches, rhs.reshape(-1, rhs.shape[-1]), precision=precision)
    convolve = _convolve if jax.default_backend() == "cpu" else _lax_convolve
    return convolve(lhs, rhs, strides, pads)


def _lax_convolve(
    x: Images, kernel: Kernel, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair = (1, 1)
) -> Outputs:
    return lax.conv_general_dilated(x, kernel, strides, padding, dilation, dimension_numbers=DIMENSIONS)


def _output_size(x: Images, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> Pair:
    sizes = zip(x.shape[1:3], window, strides, padding, strict=True)
    height, width = ((size + sum(pad) - edge) // stride + 1 for size, edge, stride, pad in sizes)
    return height, width


def _patches(
    x: Images, window: Pair, strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "batch out_height out_width patch"]:
    """The inputs of each output pixel, with patch = kernel height * kernel width * channels."""
    out_h, out_w = _output_size(x, window, strides, padding)
    stride_h, stride_w = strides
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shifted = [
        x[:, i : i + stride_h * (out_h - 1) + 1 : stride_h, j : j + stride_w * (out_w - 1) + 1 : stride_w]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return jnp.concatenate(shifted, axis=-1)


# --- On a CPU ----------------------------------------------------------------------------------------------------------
#
# XLA's CPU backend treats the batch as the channels of a kernel gradient. It transposes both factors, and from 128 images
# on reaches a fifth to a tenth of the rate of a matrix product (a hundredth within a loop, as for micro-batches). The
# input gradient is slow in loops only, where XLA does not materialise the flipped and transposed kernel. oneDNN is faster
# than the functions below, and than XLA's forward convolution.
#
# A machine whose default is the CPU may be compiling for a TPU (simclr_jax.plan), hence `lax.platform_dependent`.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Images, kernel: Kernel, strides: Pair, padding: tuple[Pair, Pair]) -> Outputs:
    def by_xla(x, kernel):
        return _lax_convolve(x, kernel, strides, padding)

    def by_onednn(x, kernel):
        return onednn.convolve(x, kernel, _geometry(x, kernel, strides, padding))

    if not onednn.usable(x, kernel, padding):
        return by_xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=by_onednn, default=by_xla)


def _convolve_forward(x, kernel, strides, padding):
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _convolve_backward(strides, padding, saved, dy):
    return _gradients(*saved, dy, strides, padding)


_convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gradients(
    x: Images, kernel: Kernel, dy: Outputs, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[Images, Kernel]:
    def on_cpu(x, kernel, dy):
        if onednn.usable(x, kernel, padding):
            geometry = _geometry(x, kernel, strides, padding)
            return onednn.input_gradient(dy, kernel, geometry), onednn.kernel_gradient(x, dy, geometry)
        return _input_gradient(x, kernel, dy, strides, padding), _kernel_gradient(x, kernel, dy, strides, padding)

    by_xla = functools.partial(_xla_gradients, strides, padding)
    return lax.platform_dependent(x, kernel, dy, cpu=on_cpu, default=by_xla)


def _xla_gradients(
    strides: Pair, padding: tuple[Pair, Pair], x: Images, kernel: Kernel, dy: Outputs
) -> tuple[Images, Kernel]:
    dx, dkernel = jax.vjp(lambda x, kernel: _lax_convolve(x, kernel, strides, padding), x, kernel)[1](dy)
    return dx, dkernel


def _gradients_forward(x, kernel, dy, strides, padding):
    return _gradients(x, kernel, dy, strides, padding), (x, kernel, dy)


def _gradients_backward(strides, padding, saved, cotangents):
    """For gradients of gradients, as in a gradient penalty: XLA's, on all platforms."""
    return jax.vjp(functools.partial(_xla_gradients, strides, padding), *saved)[1](cotangents)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _geometry(x: Images, kernel: Kernel, strides: Pair, padding: tuple[Pair, Pair]) -> Geometry:
    window = (kernel.shape[0], kernel.shape[1])
    batch, height, width, channels = x.shape
    outputs = (batch, *_output_size(x, window, strides, padding), kernel.shape[-1])
    (top, bottom), (left, right) = padding
    return Geometry((batch, height, width, channels), window, outputs, strides, (top, left), (bottom, right))


def _input_gradient(x: Images, kernel: Kernel, dy: Outputs, strides: Pair, padding: tuple[Pair, Pair]) -> Images:
    transposed = kernel[::-1, ::-1].swapaxes(2, 3)

    def pads(axis: int) -> Pair:
        window, dilated = kernel.shape[axis], strides[axis] * (dy.shape[1 + axis] - 1) + 1
        before = window - 1 - padding[axis][0]
        return before, x.shape[1 + axis] + window - 1 - dilated - before

    return _lax_convolve(dy, transposed, (1, 1), (pads(0), pads(1)), dilation=strides)


def _kernel_gradient(x: Images, kernel: Kernel, dy: Outputs, strides: Pair, padding: tuple[Pair, Pair]) -> Kernel:
    """Multiply the patches of a few images by their output gradients, chunk after chunk; sum the products in float32."""
    window, channels, features = kernel.shape[:2], kernel.shape[2], kernel.shape[3]
    dtype = np.promote_types(x.dtype, np.float32)
    # One part of the batch for each device: under a mesh no image moves, and the parts are only added at the end.
    parts = jax.device_count() if len(x) % jax.device_count() == 0 else 1
    image_bytes = dy.shape[1] * dy.shape[2] * window[0] * window[1] * channels * dtype.itemsize
    images = max(n for n in _divisors(len(x) // parts) if n == 1 or n * image_bytes <= PATCHES_BYTES)

    def chunks(array):
        return array.reshape(parts, -1, images, *array.shape[1:]).swapaxes(0, 1)

    def add(total, chunk):
        x, dy = chunk
        patches = jax.vmap(lambda x: _patches(x.astype(dtype), window, strides, padding))(x)  # type: ignore[arg-type]
        patches = patches.reshape(parts, -1, patches.shape[-1])
        # Materialise the transpose first: the product is faster then.
        dy = lax.optimization_barrier(dy.astype(dtype).reshape(parts, -1, features).swapaxes(1, 2))
        return total + (dy @ patches if parts > 1 else dy[0] @ patches[0]), None

    size = window[0] * window[1] * channels
    total = jnp.zeros((parts, features, size) if parts > 1 else (features, size), dtype)
    total, _ = lax.scan(add, total, (chunks(x), chunks(dy)))
    total = total.sum(0) if parts > 1 else total
    return total.T.reshape(kernel.shape).astype(kernel.dtype)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
