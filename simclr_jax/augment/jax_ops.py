"""The augmentation family of `data.augment` in JAX, over whole batches, to run inside the jitted training step.

Every op equals its TensorFlow twin for the same parameters, and every parameter has the same distribution (paper appendix
A; reference tf2/data_util.py); the random numbers themselves differ. Images are float32 `[n, height, width, 3]`, nominally
in [0, 1], parameters `[n]`. Nothing branches on them: an op computes for all images, and what a draw turns off is selected
away. Nothing looks from one image at another either, so a batch that is split over devices needs no communication, and
with keys from (seed, position, view) an image gets the same view whatever the batch that it comes in.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import family
from simclr_jax.augment.jax_crops import EXACT
from simclr_jax.augment.jax_crops import REST
from simclr_jax.augment.jax_crops import resized_crops
from simclr_jax.augment.jax_crops import uniforms


def _for_pixels(parameter: jax.Array) -> jax.Array:
    """`[n]` to `[n, 1, 1, 1]`."""
    return jnp.asarray(parameter)[:, None, None, None]


# --- RunMonitor with explicit parameters ---------------------------------------------------------------------------


def flip(images: jax.Array) -> jax.Array:
    """Left to right."""
    return images[:, :, ::-1]


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies all values by `factor` `[n]`."""
    return images * _for_pixels(factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the distance from each channel's mean by `factor` `[n]`."""
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return images + (images - mean) * (_for_pixels(factor) - 1.0)


def _extremes(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest and the least channel `[n, height, width, 1]`. Not as a reduction: on a TPU that takes a pass of its own."""
    red, green, blue = images[..., :1], images[..., 1:2], images[..., 2:]
    return jnp.maximum(jnp.maximum(red, green), blue), jnp.minimum(jnp.minimum(red, green), blue)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales the saturation of HSV by `factor` `[n]`, up to 1.

    Saturation is (v - least channel) / v, with v the largest; hue and v stay when every channel's distance from v is
    scaled alike, so no hue has to be found.
    """
    value, least = _extremes(images)
    extent = value - least
    full = value / jnp.where(extent > 0, extent, 1.0)  # the factor that makes saturation 1
    factor = jnp.clip(jnp.where(extent > 0, jnp.minimum(_for_pixels(factor), full), 1.0), 0.0)
    return images + (value - images) * (1.0 - factor)


def hue(images: jax.Array, delta: jax.Array) -> jax.Array:
    """Turns the hue of HSV by `delta` `[n]`, in turns; each pixel's largest and least value stay."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value, least = _extremes(images)
    extent = value - least
    scale = 1.0 / jnp.where(extent > 0, extent, 1.0)[..., 0]
    # Not `red == value`: a compiler that computes a pixel twice, for either side, need not get the same bits, and the hue
    # would be another's. Where two channels are nearly equal, either formula is right.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * scale,
        jnp.where(green >= blue, (blue - red) * scale + 2.0, (red - green) * scale + 4.0),
    )
    sixths = sixths + 6.0 * jnp.asarray(delta)[:, None, None]
    # Over the circle a channel rises, is the largest for a third, falls, and is the least for a third; red is largest
    # around 0, green around 2, blue around 4.
    phase = jnp.mod(sixths[..., None] + jnp.array([0.0, 4.0, 2.0]), 6.0)
    share = jnp.clip(jnp.abs(phase - 3.0) - 1.0, 0.0, 1.0)
    return least + extent * share


def grayscale(images: jax.Array) -> jax.Array:
    """Luma in all three channels."""
    luma = 0.2989 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2]
    return jnp.broadcast_to(luma[..., None], images.shape)


def gaussian_blur(images: jax.Array, kernel_size: int, sigma: jax.Array) -> jax.Array:
    """Separable Gaussian blur with zero padding; `kernel_size` (odd) and `sigma` `[n]` in pixels.

    Every image has a kernel of its own, which no convolution takes: a product with a banded matrix for each axis, as
    matrix units like it.
    """
    radius = kernel_size // 2
    precision = 1.0 / (2.0 * jnp.asarray(sigma) ** 2)[:, None]

    def kernel(offsets: np.ndarray) -> jax.Array:
        return jnp.exp(-np.square(offsets, dtype=np.float32) * precision)

    total = jnp.sum(kernel(np.arange(-radius, radius + 1)), axis=1)[:, None, None]

    def band(side: int) -> jax.Array:
        offsets = np.arange(side)[:, None] - np.arange(side)
        weights = kernel(offsets.reshape(-1)).reshape(-1, side, side) / total
        return jnp.where(np.abs(offsets) <= radius, weights, 0.0)

    images = jnp.einsum("nij,njwc->niwc", band(images.shape[1]), images, precision=EXACT)
    return jnp.einsum("nij,nhjc->nhic", band(images.shape[2]), images, precision=EXACT)


def rotate(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns square images by `turns`, int32 `[n]` in 0 to 3, quarter turns, anticlockwise."""
    turns = _for_pixels(turns)
    images = jnp.where(turns >= 2, images[:, ::-1, ::-1], images)
    return jnp.where(turns % 2 == 1, images.swapaxes(1, 2)[:, ::-1], images)


def sobel(images: jax.Array) -> jax.Array:
    """The size of each channel's gradient by Sobel's filters, scaled so that the steepest edge along an axis is 1."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across = padded[:, :, :-2] + 2.0 * padded[:, :, 1:-1] + padded[:, :, 2:]
    along = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
    down = across[:, 2:] - across[:, :-2]
    right = along[:, :, 2:] - along[:, :, :-2]
    return jnp.sqrt(down**2 + right**2) / 4.0


def noise(images: jax.Array, deviation: float, normals: jax.Array) -> jax.Array:
    """Adds `deviation` times standard normal numbers, of the images' shape."""
    return images + deviation * normals


def normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers for each key: uint32 `[n]` to float32 `[n, *shape]`."""

    def of_key(key):
        return jax.random.normal(jax.random.key(key, impl="threefry2x32"), shape)

    return jax.vmap(of_key)(keys)


def cutout(images: jax.Array, top: jax.Array, left: jax.Array, reach: int) -> jax.Array:
    """Makes a square grey (DeVries & Taylor 2017, arXiv 1708.04552), or what of it is within the image.

    Args:
      images: float32 `[n, height, width, 3]`.
      top, left: int32 `[n]`: its centre, in pixels.
      reach: pixels from the centre to its sides.
    """

    def inside(centre, side):
        return jnp.abs(jnp.arange(side) - centre[:, None] + 0.5) < reach

    rows, columns = inside(top, images.shape[1]), inside(left, images.shape[2])
    cut = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(cut, family.CUTOUT_VALUE, images)


def clip(images: jax.Array) -> jax.Array:
    return jnp.clip(images, 0.0, 1.0)


# --- The family ----------------------------------------------------------------------------------------------------


def jitter(images: jax.Array, augment: ConfigDict, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Colour jitter: brightness, contrast, saturation and hue in random order, clipping to [0, 1] after each.

    Every image has an order of its own. At each place in it all ops are computed for all images, and each takes its own:
    without a branch, and cheap, since all but contrast's mean fuses into one pass.

    Args:
      images: float32 `[n, height, width, 3]`.
      augment: `strength` times `brightness`, `contrast`, `saturation` (factors uniform in [max(0, 1 - b), 1 + b]) and
        `hue` (turns, uniform in [-b, b]). A bound of 0 leaves the op out.
      factors: float32 `[n, 4]`, uniform in [0, 1): where in its range each op's parameter lies.
      order: float32 `[n, 4]`, uniform: the ops are applied in the order of these numbers.
    """
    ops = []  # (op, parameter [n], order [n])
    for index, op in enumerate((brightness, contrast, saturation, hue)):
        bound = augment.strength * augment[op.__name__]
        low, high = (-bound, bound) if op is hue else (max(0.0, 1.0 - bound), 1.0 + bound)
        if bound > 0:
            ops.append((op, low + factors[:, index] * (high - low), order[:, index]))
    # How many ops come before each; of equal numbers the earlier in the list.
    places = [
        sum((other < own if i >= number else other <= own).astype(jnp.int32) for i, (*_, other) in enumerate(ops))
        for number, (*_, own) in enumerate(ops)
    ]
    for place in range(len(ops)):
        changed = images
        for (op, parameter, _), at in zip(ops, places, strict=True):
            changed = jnp.where(_for_pixels(at == place), op(images, parameter), changed)
        images = clip(changed)
    return images


def _finish(views: jax.Array, positions: jax.Array, seed: int, augment: ConfigDict) -> jax.Array:
    """All of the family behind the crop: float32 `[n, num_views, size, size, 3]` to the same, in [0, 1]."""
    num_images, num_views, size = views.shape[:3]
    draws = uniforms(seed, positions, num_views, REST, family.NUM_DRAWS)
    if augment.get("one_branch", False):
        draws = draws.at[:, 1:].set(family.NEVER)
    draws = draws.reshape(num_images * num_views, family.NUM_DRAWS)
    images = views.reshape(num_images * num_views, *views.shape[2:])

    def wanted(name: str) -> bool:
        return augment.get(f"{name}_prob", 0) > 0

    def some(place: int, name: str, changed: jax.Array) -> jax.Array:
        return jnp.where(_for_pixels(draws[:, place] < augment[f"{name}_prob"]), changed, images)

    def pixel(place: int) -> jax.Array:
        return (draws[:, place] * size).astype(jnp.int32)

    if wanted("flip"):
        images = some(family.FLIP, "flip", flip(images))
    if wanted("rotate"):
        turns = (draws[:, family.TURNS] * 4.0).astype(jnp.int32)
        images = some(family.ROTATE, "rotate", rotate(images, turns))
    if wanted("jitter") and augment.strength > 0:
        jittered = jitter(images, augment, draws[:, family.FACTORS], draws[:, family.ORDER])
        images = some(family.JITTER, "jitter", jittered)
    if wanted("grayscale"):
        images = some(family.GRAYSCALE, "grayscale", grayscale(images))
    images = clip(images)
    if wanted("sobel"):
        images = some(family.SOBEL, "sobel", clip(sobel(images)))
    kernel_size = family.blur_kernel_size(size)
    if wanted("blur") and kernel_size > 1:
        low, high = augment.blur_sigma
        sigma = low + draws[:, family.SIGMA] * (high - low)
        images = some(family.BLUR, "blur", clip(gaussian_blur(images, kernel_size, sigma)))
    if wanted("noise"):
        keys = (draws[:, family.NOISE_KEY] * family.NOISE_KEYS).astype(jnp.uint32)
        noisy = noise(images, augment.noise_std, normals(keys, images.shape[1:]))
        images = some(family.NOISE, "noise", clip(noisy))
    if wanted("cutout"):
        reach = family.cutout_reach(size, augment.cutout_side)
        cut = cutout(images, pixel(family.CUTOUT_DOWN), pixel(family.CUTOUT_RIGHT), reach)
        images = some(family.CUTOUT, "cutout", cut)
    return images.reshape(views.shape)


def random_views(crops: jax.Array, positions: jax.Array, seed: int, augment: ConfigDict) -> jax.Array:
    """The second half of the views: all behind the crop. The first is `resized_crops`, or the host's.

    The host's crops are uint8, so what its bicubic resize leaves outside [0, 1] is gone before the jitter and not after.

    Args:
      crops: uint8 `[n, num_views, size, size, 3]`, cropped and resized.
      positions: uint32 `[n]`, global.
      seed: of the run.
      augment: `config.augment`. Fields of ops that it lacks (a supervised config has crop and flip only) are off. What
        is off costs nothing and leaves all other draws as they were.

    Returns:
      float32 `[n, num_views, size, size, 3]` in [0, 1].
    """
    return _finish(crops.astype(jnp.float32) / 255.0, positions, seed, augment)


def views_from_images(
    images: jax.Array, positions: jax.Array, seed: int, augment: ConfigDict, size: int, num_views: int
) -> jax.Array:
    """The whole family on the device: uint8 `[n, height, width, 3]` to float32 `[n, num_views, size, size, 3]` in [0, 1].

    Arguments as of `resized_crops` and `random_views`.
    """
    return _finish(resized_crops(images, positions, seed, augment, size, num_views), positions, seed, augment)
