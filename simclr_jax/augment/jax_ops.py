"""The operations of `augment.family` in JAX, over whole batches, to run inside the jitted training step.

Every operation equals its TensorFlow twin in `tf_ops` for the same parameters, and every parameter has the same distribution
(paper appendix A; reference tf2/data_util.py). The random numbers themselves differ. Images are float32
`[n, height, width, 3]`, nominally in [0, 1]; parameters are `[n]`. Nothing branches on them: an operation computes all images,
and a `where` keeps the ones that were chosen. No image depends on another one, so a batch that is split over devices needs no
communication. With keys from (seed, position, view), an image gets the same view in any batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int
from jaxtyping import Integer
from jaxtyping import Shaped
from jaxtyping import UInt8
from jaxtyping import UInt32
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import family
from simclr_jax.augment.jax_crops import EXACT
from simclr_jax.augment.jax_crops import REST
from simclr_jax.augment.jax_crops import Seed
from simclr_jax.augment.jax_crops import resized_crops
from simclr_jax.augment.jax_crops import uniforms

Images = Float[Array, "n height width 3"]


def _for_pixels(parameter: Shaped[Array, " n"]) -> Shaped[Array, "n 1 1 1"]:
    return jnp.asarray(parameter)[:, None, None, None]


# --- Operations with explicit parameters ---------------------------------------------------------------------------


def flip(images: Images) -> Images:
    """Mirrors left and right."""
    return images[:, :, ::-1]


def brightness(images: Images, factor: Float[Array, " n"]) -> Images:
    """Multiplies all values by `factor`."""
    return images * _for_pixels(factor)


def contrast(images: Images, factor: Float[Array, " n"]) -> Images:
    """Scales the distance from each channel's mean by `factor`."""
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return images + (images - mean) * (_for_pixels(factor) - 1.0)


def _extremes(images: Images) -> tuple[Float[Array, "n height width 1"], Float[Array, "n height width 1"]]:
    """The largest and the smallest channel. Not as a reduction, which takes a separate pass over the images on a TPU."""
    red, green, blue = images[..., :1], images[..., 1:2], images[..., 2:]
    return jnp.maximum(jnp.maximum(red, green), blue), jnp.minimum(jnp.minimum(red, green), blue)


def saturation(images: Images, factor: Float[Array, " n"]) -> Images:
    """Scales the saturation of HSV by `factor`, up to 1.

    Saturation is (v - smallest channel) / v, with v the largest channel. Scaling every channel's distance from v by the same
    factor keeps hue and v, so the hue need not be computed.
    """
    value, least = _extremes(images)
    extent = value - least
    full = value / jnp.where(extent > 0, extent, 1.0)  # the factor that makes saturation 1
    factor = jnp.clip(jnp.where(extent > 0, jnp.minimum(_for_pixels(factor), full), 1.0), 0.0)
    return images + (value - images) * (1.0 - factor)


def hue(images: Images, delta: Float[Array, " n"]) -> Images:
    """Shifts the hue of HSV by `delta`, in turns. Each pixel's largest and smallest value stay the same."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value, least = _extremes(images)
    extent = value - least
    scale = 1.0 / jnp.where(extent > 0, extent, 1.0)[..., 0]
    # Not `red == value`: a compiler that computes a pixel twice, once for each side, need not get the same bits, and then the
    # wrong formula would be chosen. Where two channels are nearly equal, both formulas are right.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * scale,
        jnp.where(green >= blue, (blue - red) * scale + 2.0, (red - green) * scale + 4.0),
    )
    sixths = sixths + 6.0 * jnp.asarray(delta)[:, None, None]
    # Around the hue circle a channel rises, is the largest for a third, falls, and is the smallest for a third. Red is largest
    # around 0, green around 2, blue around 4.
    phase = jnp.mod(sixths[..., None] + jnp.array([0.0, 4.0, 2.0]), 6.0)
    fraction = jnp.clip(jnp.abs(phase - 3.0) - 1.0, 0.0, 1.0)
    return least + extent * fraction


def grayscale(images: Images) -> Images:
    """Luma in all three channels."""
    luma = 0.2989 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2]
    return jnp.broadcast_to(luma[..., None], images.shape)


def gaussian_blur(images: Images, kernel_size: int, sigma: Float[Array, " n"]) -> Images:
    """Separable Gaussian blur with zero padding; `kernel_size` (odd) and `sigma` in pixels.

    Every image has its own kernel, which no convolution supports. So each axis is multiplied by a banded matrix, which suits
    matrix units.
    """
    radius = kernel_size // 2
    precision = 1.0 / (2.0 * jnp.asarray(sigma) ** 2)[:, None]

    def kernel(offsets: Integer[np.ndarray, " k"]) -> Float[Array, "n k"]:
        return jnp.exp(-np.square(offsets, dtype=np.float32) * precision)

    total = jnp.sum(kernel(np.arange(-radius, radius + 1)), axis=1)[:, None, None]

    def band(side: int) -> Float[Array, "n {side} {side}"]:
        offsets = np.arange(side)[:, None] - np.arange(side)
        weights = kernel(offsets.reshape(-1)).reshape(-1, side, side) / total
        return jnp.where(np.abs(offsets) <= radius, weights, 0.0)

    images = jnp.einsum("nij,njwc->niwc", band(images.shape[1]), images, precision=EXACT)
    return jnp.einsum("nij,nhjc->nhic", band(images.shape[2]), images, precision=EXACT)


def rotate(images: Float[Array, "n side side 3"], turns: Int[Array, " n"]) -> Float[Array, "n side side 3"]:
    """Rotates square images by `turns` quarter turns, 0 to 3, anticlockwise."""
    turns = _for_pixels(turns)
    images = jnp.where(turns >= 2, images[:, ::-1, ::-1], images)
    return jnp.where(turns % 2 == 1, images.swapaxes(1, 2)[:, ::-1], images)


def sobel(images: Images) -> Images:
    """The magnitude of each channel's gradient by Sobel's filters, scaled so that the steepest edge along an axis is 1."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across = padded[:, :, :-2] + 2.0 * padded[:, :, 1:-1] + padded[:, :, 2:]
    along = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
    down = across[:, 2:] - across[:, :-2]
    right = along[:, :, 2:] - along[:, :, :-2]
    return jnp.sqrt(down**2 + right**2) / 4.0


def noise(images: Images, std: float, normals: Images) -> Images:
    """Adds standard normal numbers times `std`."""
    return images + std * normals


def normals(keys: UInt32[Array, " n"], shape: Sequence[int]) -> Float[Array, "n ..."]:
    """Standard normal numbers for each key: `[n, *shape]`."""

    def of_key(key):
        return jax.random.normal(jax.random.key(key, impl="threefry2x32"), shape)

    return jax.vmap(of_key)(keys)


def cutout(images: Images, top: Int[Array, " n"], left: Int[Array, " n"], half_side: int) -> Images:
    """Makes a square grey (DeVries & Taylor 2017, arXiv 1708.04552). The part of it outside the image is cut off.

    Args:
      images: to change.
      top, left: the centre of each square, in pixels.
      half_side: pixels from the centre to the sides.
    """

    def inside(centre, side):
        return jnp.abs((jnp.arange(side) - centre[:, None]).astype(jnp.float32) + 0.5) < half_side

    rows, columns = inside(top, images.shape[1]), inside(left, images.shape[2])
    cut = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(cut, family.CUTOUT_VALUE, images)


def clip(images: Images) -> Images:
    """To [0, 1]."""
    return jnp.clip(images, 0.0, 1.0)


# --- The family ----------------------------------------------------------------------------------------------------


def jitter(images: Images, factors: dict[str, Float[Array, " n"]], order: dict[str, Float[Array, " n"]]) -> Images:
    """Colour jitter: operations in random order, clipping to [0, 1] after each.

    Every image has its own order. At each place in it all operations are computed for all images, and each image takes its
    own. There is no branch, and it is cheap: all but the mean of `contrast` fuses into one pass.

    Args:
      images: to change.
      factors: the parameter of each operation that is on, by a name of `family.JITTER_OPS`.
      order: by the same names; the operations are applied in ascending order of these numbers.
    """
    ranks = list(order.values())
    # How many operations come before each one; of equal numbers the earlier in the list.
    places = [
        sum((other < own if i >= number else other <= own).astype(jnp.int32) for i, other in enumerate(ranks))
        for number, own in enumerate(ranks)
    ]
    for place in range(len(factors)):
        changed = images
        for (name, factor), at in zip(factors.items(), places, strict=True):
            changed = jnp.where(_for_pixels(at == place), _JITTER_OPS[name](images, factor), changed)  # type: ignore[arg-type]
        images = clip(changed)
    return images


_JITTER_OPS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def _add_noise(images: Images, key: Float[Array, " n"], std: float) -> Images:
    return clip(noise(images, std, normals(key.astype(jnp.uint32), images.shape[1:])))


# How each operation of `family.OPS` is computed, from its drawn parameters and its settings.
_OPS = {
    "flip": flip,
    "rotate": lambda images, turns: rotate(images, turns.astype(jnp.int32)),
    "jitter": jitter,
    "grayscale": grayscale,
    "sobel": lambda images: clip(sobel(images)),
    "blur": lambda images, sigma, kernel_size: clip(gaussian_blur(images, kernel_size, sigma)),
    "noise": _add_noise,
    "cutout": lambda images, top, left, half_side: cutout(
        images, top.astype(jnp.int32), left.astype(jnp.int32), half_side
    ),
}


def _apply(ops: Sequence[family.Op], images: Images, draws: Float32[Array, "n draws"], augment: ConfigDict) -> Images:
    """Applies those of `ops` that are on, each to the images that its draws choose."""
    side = images.shape[1]
    for op in ops:
        if op.is_on(augment, side):
            changed = _OPS[op.name](images, **op.drawn(draws, augment, side), **op.settings(augment, side))  # type: ignore[operator]
            images = jnp.where(_for_pixels(op.chosen(draws, augment)), changed, images)
    return images


def augment_crops(
    crops: Float[Array, "n views size size 3"], positions: Integer[Array, " n"], seed: Seed, augment: ConfigDict
) -> Float[Array, "n views size size 3"]:
    """All of the family after the crop. Arguments as of `random_views`, except that crops are floats, nominally in [0, 1]."""
    num_images, num_views = crops.shape[:2]
    draws = uniforms(seed, positions, num_views, REST, family.NUM_DRAWS)
    if augment.get("one_branch", False):
        draws = draws.at[:, 1:].set(family.NEVER)
    draws = draws.reshape(num_images * num_views, family.NUM_DRAWS)
    images = crops.reshape(num_images * num_views, *crops.shape[2:])
    images = _apply(family.OPS_BEFORE_CLIP, images, draws, augment)
    images = clip(images)
    images = _apply(family.OPS_AFTER_CLIP, images, draws, augment)
    return images.reshape(crops.shape)


def random_views(
    crops: UInt8[Array, "n views size size 3"], positions: Integer[Array, " n"], seed: Seed, augment: ConfigDict
) -> Float32[Array, "n views size size 3"]:
    """The second half of the views: all of the family after the crop. The first half is `resized_crops`, or the host's.

    The host's crops are uint8: values outside [0, 1] from its bicubic resize are clipped before the jitter, not after it.

    Args:
      crops: cropped and resized.
      positions: global.
      seed: of the run.
      augment: `config.augment`. An operation whose fields are missing (a supervised config has crop and flip only) is off.
        An operation that is off costs nothing and changes no draw of the other ones.

    Returns:
      Views in [0, 1].
    """
    return augment_crops(crops.astype(jnp.float32) / 255.0, positions, seed, augment)


def views_from_images(
    images: UInt8[Array, "n height width 3"],
    positions: Integer[Array, " n"],
    seed: Seed,
    augment: ConfigDict,
    size: int,
    num_views: int,
) -> Float32[Array, "n {num_views} {size} {size} 3"]:
    """The whole family on the device: views in [0, 1]. Arguments as of `resized_crops` and `random_views`."""
    return augment_crops(resized_crops(images, positions, seed, augment, size, num_views), positions, seed, augment)
