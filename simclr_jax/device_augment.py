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

# Places in the draw of uniform numbers that belongs to a view.
_FLIP, _JITTER, _GRAYSCALE, _BLUR, _SIGMA = range(5)
_FACTORS = slice(5, 9)
_ORDER = slice(9, 13)
_NUM_DRAWS = 13

# Keeps views apart from what else is drawn with a run's seed. A view has two streams: crop box, all else.
_VIEWS = 0x76696577
_BOX, _REST = range(2)

_CROP_ATTEMPTS = 100
_MIN_COVERED = 0.1
_NUM_BOX_DRAWS = 2 * _CROP_ATTEMPTS + 2

# Matrix units round their operands to bfloat16 or TF32 where they are allowed to: half a level of uint8.
_EXACT = jax.lax.Precision.HIGHEST


# --- Random numbers ------------------------------------------------------------------------------------------------


def _draws(seed: int, positions: jax.Array, num_views: int, stream: int, count: int) -> jax.Array:
    """Uniform numbers in [0, 1), float32 `[n, num_views, count]`: a function of (seed, position, view, stream)."""
    # Not the implementation that JAX is set to: with a hardware generator, draws would depend on the batch.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _VIEWS)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    images = fold(key, positions.astype(jnp.uint32))
    views = jax.vmap(fold, in_axes=(0, None))(images, 2 * jnp.arange(num_views, dtype=jnp.uint32) + stream)
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (count,))))(views)


def _for_pixels(parameter: jax.Array) -> jax.Array:
    """`[n]` to `[n, 1, 1, 1]`."""
    return jnp.asarray(parameter)[:, None, None, None]


# --- Cropping ------------------------------------------------------------------------------------------------------


def random_boxes(
    draws: jax.Array, height: int, width: int, area: tuple[float, float], aspect: tuple[float, float]
) -> jax.Array:
    """The boxes of random crops: area a share of the image, aspect ratio width / height.

    What TensorFlow's `sample_distorted_bounding_box` does in `data.augment.random_box`, with its rounding to whole pixels:
    an aspect ratio, then a height among those that its area bounds allow, then a place; up to 100 attempts at a shape
    that fits and covers a tenth of the image, and the whole image after that.

    All attempts are made at once. A loop until all images have a shape would end on every device when it ends on the
    last one, which takes a collective for each turn.

    Args:
      draws: float32 `[n, 202]`, uniform in [0, 1).
      height, width: of the images, in pixels.
      area: least and largest share of the image.
      aspect: least and largest ratio.

    Returns:
      int32 `[n, 4]`: top, left, height, width.
    """
    shapes, (down, right) = draws[:, :-2], (draws[:, -2], draws[:, -1])
    ratio = aspect[0] + shapes[:, :_CROP_ATTEMPTS] * np.float32(aspect[1] - aspect[0])
    least, most = (np.float32(share) * np.float32(height * width) for share in area)

    # Heights whose areas are within the bounds, for the ratio and the image's own sides.
    low, high = (jnp.round(jnp.sqrt(bound / ratio)) for bound in (least, most))
    high = jnp.where(jnp.round(high * ratio) > width, jnp.floor((width + 0.5) / ratio), high)
    high = jnp.minimum(high, height)
    low = jnp.minimum(low, high)
    tall = low + jnp.floor(shapes[:, _CROP_ATTEMPTS:] * (high - low + 1))

    # Rounding may have left the bounds: a pixel more, or less.
    tall = jnp.where(tall * jnp.round(tall * ratio) < least, tall + 1, tall)
    tall = jnp.where(tall * jnp.round(tall * ratio) > most, tall - 1, tall)
    wide = jnp.round(tall * ratio)
    covered = tall * wide
    fits = (covered >= least) & (covered <= most) & (covered / np.float32(height * width) >= np.float32(_MIN_COVERED))
    fits &= (tall > 0) & (wide > 0) & (tall <= height) & (wide <= width)

    first = fits & (jnp.cumsum(fits, axis=1) == 1)
    found = jnp.any(fits, axis=1)
    tall, wide = (jnp.sum(jnp.where(first, side, 0), axis=1) for side in (tall, wide))
    tall, wide = jnp.where(found, tall, height), jnp.where(found, wide, width)
    # As in TensorFlow, the last row and the last column are in no crop but the ones of full height or width.
    top, left = jnp.floor(down * (height - tall)), jnp.floor(right * (width - wide))
    return jnp.stack([top, left, tall, wide], axis=1).astype(jnp.int32)


def _resize_weights(start: jax.Array, length: jax.Array, side: int, size: int) -> jax.Array:
    """What each of `size` new pixels takes of each of `side` old ones, when [start, start + length) is resized.

    Keys' cubic with a = -0.5 and pixels at half-integers, in TensorFlow's version: what lies outside is left out and the
    rest scaled to sum to one; places are rounded to 1/1024 of a pixel (its table of weights).

    Args:
      start, length: int32 `[n]`.

    Returns:
      float32 `[n, size, side]`.
    """
    scale = (length.astype(jnp.float32) / size)[:, None]
    place = (jnp.arange(size) + np.float32(0.5)) * scale - 0.5
    before = jnp.floor(place)
    rest = jnp.round((place - before) * 1024) / 1024
    pixel = jnp.arange(side, dtype=jnp.int32) - start[:, None]
    distance = jnp.abs((pixel[:, None, :] - before[:, :, None]) - rest[:, :, None])
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    weights = jnp.where(((pixel >= 0) & (pixel < length[:, None]))[:, None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def crop_and_resize(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """The parts of images that boxes hold, resized: bicubic without antialiasing, so a little outside [0, 1] too.

    Args:
      images: uint8 `[n, height, width, 3]`.
      boxes: int32 `[n, 4]`: top, left, height, width, in pixels.
      size: side of the result in pixels.

    Returns:
      float32 `[n, size, size, 3]`.
    """
    top, left, tall, wide = jnp.moveaxis(boxes, 1, 0)
    rows = _resize_weights(top, tall, images.shape[1], size)
    columns = _resize_weights(left, wide, images.shape[2], size)
    images = jnp.einsum("nij,njwc->niwc", rows, images.astype(jnp.float32), precision=_EXACT)
    return jnp.einsum("nij,nhjc->nhic", columns, images, precision=_EXACT) / 255.0


def central_square(images: jax.Array, size: int) -> jax.Array:
    """Where `augment.crop` is off: the central square, resized. uint8 `[n, h, w, 3]` to float32 `[n, size, size, 3]`."""
    num_images, height, width = images.shape[:3]
    side = min(height, width)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    images = images[:, top : top + side, left : left + side]
    if side == size:
        return images.astype(jnp.float32) / 255.0
    return crop_and_resize(images, jnp.tile(jnp.array([[0, 0, side, side]], jnp.int32), (num_images, 1)), size)


def resized_crops(
    images: jax.Array, positions: jax.Array, seed: int, augment: ConfigDict, size: int, num_views: int
) -> jax.Array:
    """The first half of the views: random crops; the central square where `augment.crop` is off.

    Args:
      images: uint8 `[n, height, width, 3]`.
      positions: uint32 `[n]`, global.
      seed: of the run.
      augment: `config.augment`.
      size: side of the views in pixels.
      num_views: of each image.

    Returns:
      float32 `[n, num_views, size, size, 3]`.
    """
    num_images, height, width = images.shape[:3]
    if not augment.crop:
        shape = (num_images, num_views, size, size, 3)
        return jnp.broadcast_to(central_square(images, size)[:, None], shape)
    draws = _draws(seed, positions, num_views, _BOX, _NUM_BOX_DRAWS)
    boxes = random_boxes(
        draws.reshape(num_images * num_views, -1), height, width, augment.crop_area, augment.crop_aspect
    ).reshape(num_images, num_views, 4)
    return jax.vmap(lambda boxes: crop_and_resize(images, boxes, size), in_axes=1, out_axes=1)(boxes)


# --- Operations with explicit parameters ---------------------------------------------------------------------------


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


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur for square images of `side` pixels: a tenth, and odd. 23 at 224 px, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


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

    images = jnp.einsum("nij,njwc->niwc", band(images.shape[1]), images, precision=_EXACT)
    return jnp.einsum("nij,nhjc->nhic", band(images.shape[2]), images, precision=_EXACT)


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
    """Flip, colour jitter, greyscale, blur: float32 `[n, num_views, size, size, 3]` to the same, in [0, 1]."""
    num_images, num_views, size = views.shape[:3]
    draws = _draws(seed, positions, num_views, _REST, _NUM_DRAWS).reshape(num_images * num_views, _NUM_DRAWS)
    images = views.reshape(num_images * num_views, *views.shape[2:])

    def select(chosen: jax.Array, changed: jax.Array) -> jax.Array:
        return jnp.where(_for_pixels(chosen), changed, images)

    if augment.flip_prob > 0:
        images = select(draws[:, _FLIP] < augment.flip_prob, flip(images))
    if augment.get("jitter_prob", 0) > 0 and augment.strength > 0:
        jittered = jitter(images, augment, draws[:, _FACTORS], draws[:, _ORDER])
        images = select(draws[:, _JITTER] < augment.jitter_prob, jittered)
    if augment.get("grayscale_prob", 0) > 0:
        images = select(draws[:, _GRAYSCALE] < augment.grayscale_prob, grayscale(images))
    images = clip(images)
    kernel_size = blur_kernel_size(size)
    if augment.get("blur_prob", 0) > 0 and kernel_size > 1:
        low, high = augment.blur_sigma
        sigma = low + draws[:, _SIGMA] * (high - low)
        images = select(draws[:, _BLUR] < augment.blur_prob, clip(gaussian_blur(images, kernel_size, sigma)))
    return images.reshape(views.shape)


def random_views(crops: jax.Array, positions: jax.Array, seed: int, augment: ConfigDict) -> jax.Array:
    """The second half of the views: flip, colour jitter, greyscale, blur. The first is `resized_crops`, or the host's.

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
