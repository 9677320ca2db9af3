"""Random crops in JAX, over whole batches, to run inside the jitted training step: the twin of `tf_crops`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float32
from jaxtyping import Int32
from jaxtyping import Integer
from jaxtyping import UInt8
from ml_collections import ConfigDict
import numpy as np

# Separates the draws of views from all other draws with a run's seed. A view has two streams: crop box, and everything else.
_VIEWS = 0x76696577
BOX, REST = range(2)
# The crop box that all views of an image share comes from the stream of a view number that is never used.
_SHARED_BOX = 62

_ATTEMPTS = 100
_MIN_COVERED = 0.1

# Without this, matrix units round their operands to bfloat16 or TF32, an error of half a level of uint8.
EXACT = jax.lax.Precision.HIGHEST


Seed = int | Integer[Array, ""]  # a number, or an argument of a jitted function


def uniforms(
    seed: Seed, positions: Integer[Array, " n"], num_views: int, stream: int, count: int
) -> Float32[Array, "n {num_views} {count}"]:
    """Uniform numbers in [0, 1): a function of (seed, position, view, stream)."""
    # A fixed implementation, whatever JAX's configuration: with a hardware generator, draws would depend on the batch.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _VIEWS)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    images = fold(key, positions.astype(jnp.uint32))
    views = jax.vmap(fold, in_axes=(0, None))(images, 2 * jnp.arange(num_views, dtype=jnp.uint32) + stream)
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (count,))))(views)


def random_boxes(
    draws: Float32[Array, "n 202"],
    height: int | Int32[Array, " n"],
    width: int | Int32[Array, " n"],
    area: Sequence[float],
    aspect: Sequence[float],
) -> Int32[Array, "n 4"]:
    """The boxes of random crops: area as a fraction of the image, aspect ratio width / height.

    This is what TensorFlow's `sample_distorted_bounding_box` does in `tf_crops.random_box`, with its rounding to whole pixels:
    an aspect ratio, then a height among those that the area bounds allow, then a place. It makes up to 100 attempts at a shape
    that fits and covers a tenth of the image, and then takes the whole image.

    All attempts are made at once. A loop until all images have a shape would need a collective per iteration, because it ends
    on every device when it ends on the last one.

    Args:
      draws: uniform in [0, 1).
      height, width: of the images, in pixels; one number for all images, or one for each.
      area: smallest and largest fraction of the image.
      aspect: smallest and largest ratio.

    Returns:
      Top, left, height and width, in pixels.
    """
    shapes, (down, right) = draws[:, :-2], (draws[:, -2], draws[:, -1])
    height, width = (jnp.asarray(side, jnp.float32).reshape(-1, 1) for side in (height, width))
    ratio = aspect[0] + shapes[:, :_ATTEMPTS] * np.float32(aspect[1] - aspect[0])
    least, most = (np.float32(fraction) * (height * width) for fraction in area)

    # Heights whose areas are within the bounds, for the ratio and the image's own sides.
    low, high = (jnp.round(jnp.sqrt(bound / ratio)) for bound in (least, most))
    high = jnp.where(jnp.round(high * ratio) > width, jnp.floor((width + 0.5) / ratio), high)
    high = jnp.minimum(high, height)
    low = jnp.minimum(low, high)
    tall = low + jnp.floor(shapes[:, _ATTEMPTS:] * (high - low + 1))

    # Rounding may have moved the area out of the bounds: one pixel more, or one less.
    tall = jnp.where(tall * jnp.round(tall * ratio) < least, tall + 1, tall)
    tall = jnp.where(tall * jnp.round(tall * ratio) > most, tall - 1, tall)
    wide = jnp.round(tall * ratio)
    covered = tall * wide
    fits = (covered >= least) & (covered <= most) & (covered / (height * width) >= np.float32(_MIN_COVERED))
    fits &= (tall > 0) & (wide > 0) & (tall <= height) & (wide <= width)

    first = fits & (jnp.cumsum(fits, axis=1) == 1)
    any_fits = jnp.any(fits, axis=1)
    height, width = height[:, 0], width[:, 0]
    tall, wide = (jnp.sum(jnp.where(first, side, 0), axis=1) for side in (tall, wide))
    tall, wide = jnp.where(any_fits, tall, height), jnp.where(any_fits, wide, width)
    # As in TensorFlow, only crops of full height contain the last row, and only crops of full width the last column.
    top, left = jnp.floor(down * (height - tall)), jnp.floor(right * (width - wide))
    return jnp.stack([top, left, tall, wide], axis=1).astype(jnp.int32)


def _resize_weights(
    start: Int32[Array, " n"], length: Int32[Array, " n"], side: int, size: int
) -> Float32[Array, "n {size} {side}"]:
    """The weight of each of `side` old pixels in each of `size` new pixels, when [start, start + length) is resized.

    Keys' cubic with a = -0.5 and pixels at half-integers, as TensorFlow computes it: pixels outside the range get no weight and
    the rest is scaled to sum to one; positions are rounded to 1/1024 of a pixel (its table of weights).
    """
    scale = (length.astype(jnp.float32) / size)[:, None]
    place = (jnp.arange(size, dtype=jnp.float32) + np.float32(0.5)) * scale - 0.5
    before = jnp.floor(place)
    rest = jnp.round((place - before) * 1024) / 1024
    pixel = jnp.arange(side, dtype=jnp.int32) - start[:, None]
    distance = jnp.abs((pixel[:, None, :].astype(jnp.float32) - before[:, :, None]) - rest[:, :, None])
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    weights = jnp.where(((pixel >= 0) & (pixel < length[:, None]))[:, None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def crop_and_resize(
    images: UInt8[Array, "n height width 3"], boxes: Int32[Array, "n 4"], size: int
) -> Float32[Array, "n {size} {size} 3"]:
    """Cuts boxes out of images and resizes them: bicubic without antialiasing, so values can be a little outside [0, 1].

    Args:
      images: one for each box.
      boxes: top, left, height, width, in pixels.
      size: side of the result in pixels.
    """
    top, left, tall, wide = jnp.moveaxis(boxes, 1, 0)
    rows = _resize_weights(top, tall, images.shape[1], size)
    columns = _resize_weights(left, wide, images.shape[2], size)
    images = jnp.einsum("nij,njwc->niwc", rows, images.astype(jnp.float32), precision=EXACT)
    return jnp.einsum("nij,nhjc->nhic", columns, images, precision=EXACT) / 255.0


def central_square(images: UInt8[Array, "n height width 3"], size: int) -> Float32[Array, "n {size} {size} 3"]:
    """The central square, resized: the view of an image when `augment.crop` is off."""
    num_images, height, width = images.shape[:3]
    side = min(height, width)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    images = images[:, top : top + side, left : left + side]
    if side == size:
        return images.astype(jnp.float32) / 255.0
    return crop_and_resize(images, jnp.tile(jnp.array([[0, 0, side, side]], jnp.int32), (num_images, 1)), size)


def resized_crops(
    images: UInt8[Array, "n height width 3"],
    positions: Integer[Array, " n"],
    seed: Seed,
    augment: ConfigDict,
    size: int,
    num_views: int,
) -> Float32[Array, "n {num_views} {size} {size} 3"]:
    """The first half of the views: random crops as `tf_crops.random_crops` makes them, resized.

    Args:
      images: to crop.
      positions: global.
      seed: of the run.
      augment: `config.augment`.
      size: side of the views in pixels.
      num_views: of each image.
    """
    num_images, height, width = images.shape[:3]

    def boxes_in(height, width, num_views, stream):
        """Boxes `[n, num_views, 4]`. `height` and `width` are those of all images or, for one view, of each: `[n]`."""
        draws = uniforms(seed, positions, num_views, stream, 2 * _ATTEMPTS + 2).reshape(num_images * num_views, -1)
        boxes = random_boxes(draws, height, width, augment.crop_area, augment.crop_aspect)
        return boxes.reshape(num_images, num_views, 4)

    if augment.get("one_branch", False):
        common = boxes_in(height, width, 1, _SHARED_BOX)
        boxes = jnp.tile(common, (1, num_views, 1))
        if augment.crop:
            within = boxes_in(common[:, 0, 2], common[:, 0, 3], 1, BOX)[:, 0]
            boxes = boxes.at[:, 0, :2].add(within[:, :2]).at[:, 0, 2:].set(within[:, 2:])
    elif augment.crop:
        boxes = boxes_in(height, width, num_views, BOX)
    else:
        shape = (num_images, num_views, size, size, 3)
        return jnp.broadcast_to(central_square(images, size)[:, None], shape)
    return jax.vmap(lambda boxes: crop_and_resize(images, boxes, size), in_axes=1, out_axes=1)(boxes)
