"""Random crops in JAX, over whole batches, to run inside the jitted training step: as `data.crops` has them."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

# Keeps views apart from what else is drawn with a run's seed. A view has two streams: crop box, all else.
_VIEWS = 0x76696577
BOX, REST = range(2)
# And all views have one crop box in common, where they do: as of a view that there never is.
_SHARED_BOX = 62

_ATTEMPTS = 100
_MIN_COVERED = 0.1

# Matrix units round their operands to bfloat16 or TF32 where they are allowed to: half a level of uint8.
EXACT = jax.lax.Precision.HIGHEST


def uniforms(seed: int, positions: jax.Array, num_views: int, stream: int, count: int) -> jax.Array:
    """Uniform numbers in [0, 1), float32 `[n, num_views, count]`: a function of (seed, position, view, stream)."""
    # Not the implementation that JAX is set to: with a hardware generator, draws would depend on the batch.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _VIEWS)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    images = fold(key, positions.astype(jnp.uint32))
    views = jax.vmap(fold, in_axes=(0, None))(images, 2 * jnp.arange(num_views, dtype=jnp.uint32) + stream)
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (count,))))(views)


def random_boxes(
    draws: jax.Array,
    height: int | jax.Array,
    width: int | jax.Array,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> jax.Array:
    """The boxes of random crops: area a share of the image, aspect ratio width / height.

    What TensorFlow's `sample_distorted_bounding_box` does in `data.crops.random_box`, with its rounding to whole pixels:
    an aspect ratio, then a height among those that its area bounds allow, then a place; up to 100 attempts at a shape
    that fits and covers a tenth of the image, and the whole image after that.

    All attempts are made at once. A loop until all images have a shape would end on every device when it ends on the
    last one, which takes a collective for each turn.

    Args:
      draws: float32 `[n, 202]`, uniform in [0, 1).
      height, width: of the images, in pixels; of all, or int32 `[n]`.
      area: least and largest share of the image.
      aspect: least and largest ratio.

    Returns:
      int32 `[n, 4]`: top, left, height, width.
    """
    shapes, (down, right) = draws[:, :-2], (draws[:, -2], draws[:, -1])
    height, width = (jnp.asarray(side, jnp.float32).reshape(-1, 1) for side in (height, width))
    ratio = aspect[0] + shapes[:, :_ATTEMPTS] * np.float32(aspect[1] - aspect[0])
    least, most = (np.float32(share) * (height * width) for share in area)

    # Heights whose areas are within the bounds, for the ratio and the image's own sides.
    low, high = (jnp.round(jnp.sqrt(bound / ratio)) for bound in (least, most))
    high = jnp.where(jnp.round(high * ratio) > width, jnp.floor((width + 0.5) / ratio), high)
    high = jnp.minimum(high, height)
    low = jnp.minimum(low, high)
    tall = low + jnp.floor(shapes[:, _ATTEMPTS:] * (high - low + 1))

    # Rounding may have left the bounds: a pixel more, or less.
    tall = jnp.where(tall * jnp.round(tall * ratio) < least, tall + 1, tall)
    tall = jnp.where(tall * jnp.round(tall * ratio) > most, tall - 1, tall)
    wide = jnp.round(tall * ratio)
    covered = tall * wide
    fits = (covered >= least) & (covered <= most) & (covered / (height * width) >= np.float32(_MIN_COVERED))
    fits &= (tall > 0) & (wide > 0) & (tall <= height) & (wide <= width)

    first = fits & (jnp.cumsum(fits, axis=1) == 1)
    found = jnp.any(fits, axis=1)
    height, width = height[:, 0], width[:, 0]
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
    images = jnp.einsum("nij,njwc->niwc", rows, images.astype(jnp.float32), precision=EXACT)
    return jnp.einsum("nij,nhjc->nhic", columns, images, precision=EXACT) / 255.0


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
    """The first half of the views: random crops, as `data.crops.random_crops` makes them, resized.

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

    def boxes_in(height, width, num_views, stream):
        """`[n, num_views, 4]`, of images that are all `height` by `width` pixels or, for one view, `[n]`."""
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
