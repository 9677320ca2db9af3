"""Convolutions by oneDNN as functions of JAX arrays, and when they can be used.

XLA's CPU backend runs float32 convolutions at about half of oneDNN's rate, and bfloat16 at a quarter (docs/performance.md).
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

from simclr_jax.onednn import foreign_function
from simclr_jax.onednn import library
from simclr_jax.onednn.library import FORWARD
from simclr_jax.onednn.library import INPUT_GRADIENT
from simclr_jax.onednn.library import KERNEL_GRADIENT
from simclr_jax.onednn.library import Geometry

TARGET = "simclr_jax.onednn.convolution"
DTYPES = tuple(library.DTYPES)

Images = Float[Array, "batch height width channels"]
Outputs = Float[Array, "batch out_height out_width features"]
Kernel = Float[Array, "kernel_height kernel_width channels features"]
Pair = tuple[int, int]


def usable(x: Images, kernel: Kernel, padding: tuple[Pair, Pair]) -> bool:
    """Whether to use oneDNN, for a convolution and its gradients.

    It is for one device, as XLA does not know how to divide a foreign function. A program that is exported for any batch
    size, whose shapes are symbols, keeps to XLA too. So does padding as wide as the kernel: oneDNN 3.2 crashes there.
    """
    concrete = all(isinstance(size, int) and size > 0 for size in (*x.shape, *kernel.shape))
    if jax.device_count() > 1 or not concrete or x.dtype.name not in DTYPES:
        return False
    if any(not 0 <= pad < size for size, pads in zip(kernel.shape[:2], padding, strict=True) for pad in pads):
        return False
    return library.load() is not None


def convolve(x: Images, kernel: Kernel, geometry: Geometry) -> Outputs:
    return _over_images(_convolve, geometry)(x, kernel)


def input_gradient(dy: Outputs, kernel: Kernel, geometry: Geometry) -> Images:
    return _over_images(_input_gradient, geometry)(dy, kernel)


def _convolve(x: Images, kernel: Kernel, geometry: Geometry) -> Outputs:
    dense = _dense(geometry)
    return _call(FORWARD, dense, _read_pixels(x, geometry, dense), kernel, dense.outputs)


def _input_gradient(dy: Outputs, kernel: Kernel, geometry: Geometry) -> Images:
    dense = _dense(geometry)
    dx = _call(INPUT_GRADIENT, dense, dy, kernel, dense.images)
    if dense == geometry:
        return dx
    # Zeros where the forward pass skipped pixels.
    sides = zip(geometry.images[1:3], dense.images[1:3], geometry.strides, strict=True)
    gaps = [(0, size - (few - 1) * stride - 1, stride - 1) for size, few, stride in sides]
    return lax.pad(dx, np.zeros((), dx.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))


def kernel_gradient(x: Images, dy: Outputs, geometry: Geometry) -> Kernel:
    dense = _dense(geometry)
    shape = (*geometry.kernel, geometry.images[-1], geometry.outputs[-1])
    return _call(KERNEL_GRADIENT, dense, _read_pixels(x, geometry, dense), dy, shape)


def _over_images(function: Callable[[Array, Kernel, Geometry], Array], geometry: Geometry) -> Callable[..., Array]:
    """A function of images and a kernel, which takes another axis of images by `jax.vmap` as a larger batch."""

    def one(images, kernel):
        return function(images, kernel, geometry)

    of_batch = jax.custom_batching.custom_vmap(one)

    @of_batch.def_vmap
    def of_batches(number, mapped, images, kernel):
        if mapped != [True, False]:  # one after the other
            axes = [0 if each else None for each in mapped]
            return jax.vmap(one, axes)(images, kernel), True
        batch = number * geometry.images[0]
        larger = dataclasses.replace(
            geometry, images=(batch, *geometry.images[1:]), outputs=(batch, *geometry.outputs[1:])
        )
        out = _over_images(function, larger)(images.reshape(-1, *images.shape[2:]), kernel)
        return out.reshape(number, -1, *out.shape[1:]), True

    return of_batch


def _dense(geometry: Geometry) -> Geometry:
    """For a 1x1 kernel with strides, the convolution of the pixels that it reads. oneDNN 3.2 reads past the others."""
    if geometry.kernel != (1, 1) or geometry.strides == (1, 1):
        return geometry
    batch, height, width, _ = geometry.outputs
    return dataclasses.replace(geometry, images=(batch, height, width, geometry.images[-1]), strides=(1, 1))


def _read_pixels(x: Images, geometry: Geometry, dense: Geometry) -> Images:
    if dense == geometry:
        return x
    stride_h, stride_w = geometry.strides
    return x[:, ::stride_h, ::stride_w]


def _call(function: int, geometry: Geometry, a: Array, b: Array, shape: Sequence[int]) -> Array:
    dtype = a.dtype
    if _convolution(_integers(function, dtype.name, geometry)) is None:
        # A CPU without bfloat16: the same sums in float32, and rounded at the end as well.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    integers = _integers(function, a.dtype.name, geometry)
    _register()
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(tuple(shape), a.dtype), vmap_method="sequential")
    return call(a, b, integers=np.array(integers, np.int64)).astype(dtype)


def _integers(function: int, dtype: str, geometry: Geometry) -> tuple[int, ...]:
    """A call in integers, so that the program holds all that is needed to run it."""
    sizes = [size for field in dataclasses.fields(geometry) for size in getattr(geometry, field.name)]
    return function, DTYPES.index(dtype), *sizes


@functools.cache
def _convolution(integers: tuple[int, ...]) -> library.Convolution | None:
    """The convolution of a call; None if oneDNN does not have it."""
    function, dtype, *sizes = integers
    fields = np.split(np.array(sizes), np.cumsum([4, 2, 4, 2, 2]))
    geometry = Geometry(*(tuple(field.tolist()) for field in fields))
    try:
        return library.Convolution(library.load(), function, DTYPES[dtype], geometry)
    except library.UnsupportedError:
        return None


@functools.cache
def _register() -> None:
    def run(addresses: Sequence[int], integers: tuple[int, ...]) -> None:
        convolution = _convolution(integers)
        if convolution is None:
            raise RuntimeError(f"oneDNN has no convolution {integers} here; {library.SWITCH}=0 does without it")
        convolution(*addresses)

    foreign_function.register(TARGET, run)
