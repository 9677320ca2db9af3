"""Convolutions whose gradients, and tiny outputs, are also fast on CPUs. On other platforms they are XLA's own."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

# Outputs of at most this many pixels a side are computed as one matrix product. XLA's CPU backend runs a 3x3
# convolution on 2x2 pixels, and its gradients, about 50 times slower than the same product (benchmarks: the last stage
# of a ResNet on 16 px images, or the stem of the ImageNet kind on 32 px ones); elsewhere the two cost about the same.
TINY = 2

# The bytes of patches in one product of the kernel's gradient, about what a core's share of the cache holds. Measured on
# 2 cores with 1 to 10 MiB: 4 to 5 is within 10 % of the best from 4x4 pixels of 512 channels to 32x32 of 64.
PATCHES_BYTES = 5 * 2**20

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Pair,
    padding: tuple[Pair, Pair],
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    precision=None,
    **kwargs,
) -> jax.Array:
    """`lax.conv_general_dilated` for `flax.nnx.Conv`, NHWC by HWIO, with explicit padding, no dilation and no groups."""
    if max(_output_size(lhs, rhs.shape[:2], window_strides, padding)) <= TINY:
        patches = _patches(lhs, rhs.shape[:2], window_strides, padding)
        return jnp.dot(patches, rhs.reshape(-1, rhs.shape[-1]), precision=precision)
    convolve = _convolve if jax.default_backend() == "cpu" else _lax_convolve
    return convolve(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding)))


def _lax_convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], dilation=(1, 1)):
    return lax.conv_general_dilated(x, kernel, strides, padding, dilation, dimension_numbers=DIMENSIONS)


def _output_size(x: jax.Array, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> Pair:
    sizes = zip(x.shape[1:3], window, strides, padding, strict=True)
    return tuple((size + sum(pad) - edge) // stride + 1 for size, edge, stride, pad in sizes)


def _patches(x: jax.Array, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """What each output pixel is computed from: `[batch, out height, out width, kernel height * kernel width * in]`."""
    out_h, out_w = _output_size(x, window, strides, padding)
    stride_h, stride_w = strides
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    shifted = [
        x[:, i : i + stride_h * (out_h - 1) + 1 : stride_h, j : j + stride_w * (out_w - 1) + 1 : stride_w]
        for i in range(window[0])
        for j in range(window[1])
    ]
    return jnp.concatenate(shifted, axis=-1)


# --- Gradients on a CPU ------------------------------------------------------------------------------------------------
#
# XLA's CPU backend treats the batch as the channels of a kernel gradient: it turns both of its factors around, and from
# 128 images on gets a fifth to a tenth of the rate of a matrix product (in a loop, as micro-batches are, a hundredth).
# The input gradient is only slow in loops, for want of a copy of the turned kernel.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return _lax_convolve(x, kernel, strides, padding)


def _convolve_forward(x, kernel, strides, padding):
    return _lax_convolve(x, kernel, strides, padding), (x, kernel)


def _convolve_backward(strides, padding, saved, dy):
    def xlas(x, kernel, dy):
        return jax.vjp(lambda x, kernel: _lax_convolve(x, kernel, strides, padding), x, kernel)[1](dy)

    def on_cpu(x, kernel, dy):
        return _input_gradient(x, kernel, dy, strides, padding), _kernel_gradient(x, kernel, dy, strides, padding)

    # A machine whose default is the CPU may be compiling for a TPU (simclr_jax.plan).
    return lax.platform_dependent(*saved, dy, cpu=on_cpu, default=xlas)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _input_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, padding: tuple[Pair, Pair]):
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    sizes = zip(x.shape[1:3], dy.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    pads = []
    for size, out_size, window, stride, (before, _) in sizes:
        before = window - 1 - before
        pads.append((before, size + window - 1 - (stride * (out_size - 1) + 1) - before))
    return _lax_convolve(dy, turned, (1, 1), tuple(pads), dilation=strides)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, padding: tuple[Pair, Pair]):
    """Products of the patches of a few images with their output gradients, one after the other, summed in float32."""
    window, channels, features = kernel.shape[:2], kernel.shape[2], kernel.shape[3]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # A share for each device, so that under a mesh no image moves, and the shares are added only at the end.
    shares = jax.device_count() if len(x) % jax.device_count() == 0 else 1
    image_bytes = dy.shape[1] * dy.shape[2] * window[0] * window[1] * channels * dtype.itemsize
    images = max(n for n in _divisors(len(x) // shares) if n == 1 or n * image_bytes <= PATCHES_BYTES)

    def pieces(array):
        return array.reshape(shares, -1, images, *array.shape[1:]).swapaxes(0, 1)

    def add(total, piece):
        x, dy = piece
        patches = jax.vmap(lambda x: _patches(x.astype(dtype), window, strides, padding))(x)
        patches = patches.reshape(shares, -1, patches.shape[-1])
        # The product is faster when its first factor was turned for good.
        dy = lax.optimization_barrier(dy.astype(dtype).reshape(shares, -1, features).swapaxes(1, 2))
        return total + (dy @ patches if shares > 1 else dy[0] @ patches[0]), None

    size = window[0] * window[1] * channels
    total = jnp.zeros((shares, features, size) if shares > 1 else (features, size), dtype)
    total, _ = lax.scan(add, total, (pieces(x), pieces(dy)))
    total = total.sum(0) if shares > 1 else total
    return total.T.reshape(kernel.shape).astype(kernel.dtype)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
