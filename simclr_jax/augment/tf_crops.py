"""Decode and crop images (paper appendix A), stateless, in TensorFlow: one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from ml_collections import ConfigDict

from simclr_jax.augment import image_files
from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

ChooseBox = Callable[["tf.Tensor"], "tf.Tensor"]


def open_cropped(image: tf.Tensor, choose_boxes: Sequence[ChooseBox], reduce_to: int | None = None) -> list[tf.Tensor]:
    """Decodes some boxes of an image.

    A single box of a JPEG is decoded and cropped in one op, which skips most of the work. For two or more boxes the whole image
    is decoded once: seeking to a crop in a JPEG takes most of the time of decoding all of it.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      choose_boxes: each maps an int32 shape `[height, width, channels]` to an int32 box `[top, left, height, width]`.
      reduce_to: to how many pixels the sides of all boxes will be resized. A JPEG is then decoded at the smallest of 1/2, 1/4
        and 1/8 of its size at which no side of a box has fewer pixels; where there is none, as with None. Edges of boxes are
        rounded to pixels of the reduced image, and off by up to one where metadata turns an image whose sides are no multiples
        of 8.

    Returns:
      uint8 `[box height, box width, 3]` for each box; smaller by the same ratio if the image is.
    """
    if reduce_to is None or image.dtype != tf.string:
        return _open_full(image, choose_boxes)
    ratio = tf.cond(tf.io.is_jpeg(image), lambda: _ratio(image, choose_boxes, reduce_to), lambda: tf.constant(1))
    return tf.cond(
        ratio == 1, lambda: _open_full(image, choose_boxes), lambda: _open_reduced(image, choose_boxes, ratio)
    )


def _ratio(image: tf.Tensor, choose_boxes: Sequence[ChooseBox], size: int) -> tf.Tensor:
    """By how much a JPEG can be reduced so that the boxes keep `size` pixels of each side: int32, 1, 2, 4 or 8."""

    def of_boxes():
        shape = image_files.upright_jpeg_shape(image)
        least = tf.reduce_min([choose_box(shape)[2:] for choose_box in choose_boxes])
        return tf.reduce_max(tf.where(least >= size * ratios, ratios, 1))

    ratios = tf.constant(image_files.RATIOS)
    # Most files are too small for any box of them, and drawing boxes costs time.
    possible = tf.reduce_min(tf.io.extract_jpeg_shape(image)[:2]) >= size * image_files.RATIOS[0]
    return tf.cond(possible, of_boxes, lambda: tf.constant(1))


def _open_full(image: tf.Tensor, choose_boxes: Sequence[ChooseBox]) -> list[tf.Tensor]:
    def from_jpeg():
        box = choose_boxes[0](tf.io.extract_jpeg_shape(image))
        return tf.io.decode_and_crop_jpeg(image, box, channels=3)

    def from_pixels():
        pixels = image_files.decode(image)
        return [_cut(pixels, choose_box(tf.shape(pixels))) for choose_box in choose_boxes]

    if image.dtype != tf.string or len(choose_boxes) > 1:
        return from_pixels()
    return [tf.cond(tf.io.is_jpeg(image) & image_files.is_surely_plain(image), from_jpeg, lambda: from_pixels()[0])]


def _open_reduced(image: tf.Tensor, choose_boxes: Sequence[ChooseBox], ratio: tf.Tensor) -> list[tf.Tensor]:
    """Boxes of a JPEG that is decoded at 1 / `ratio` of its size. They are chosen at its full size."""
    shape = image_files.upright_jpeg_shape(image)
    boxes = tf.stack([choose_box(shape) for choose_box in choose_boxes])
    corners = (tf.concat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) + ratio // 2) // ratio
    first, last = tf.reduce_min(corners[:, :2], axis=0), tf.reduce_max(corners[:, 2:], axis=0)
    pixels = image_files.decode_reduced(image, tf.concat([first, last - first], axis=0), ratio)
    boxes = tf.concat([corners[:, :2] - first, corners[:, 2:] - corners[:, :2]], axis=1)
    return [_cut(pixels, box) for box in tf.unstack(boxes, len(choose_boxes))]


def _cut(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    top, left, height, width = tf.unstack(box)
    return pixels[top : top + height, left : left + width]


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[h, w, 3]` to float32 `[size, size, 3]`: bicubic without antialiasing, so values can be a little outside [0, 1].

    Calls the kernel of `tf.image.resize(..., "bicubic")` without the half a dozen ops around it.
    """
    image = tf.raw_ops.ResizeBicubic(images=image[None], size=[size, size], half_pixel_centers=True)[0] / 255.0
    image.set_shape([size, size, 3])
    return image


def random_box(shape: tf.Tensor, seed: tf.Tensor, area: Sequence[float], aspect: Sequence[float]) -> tf.Tensor:
    """The box `[top, left, height, width]` of a random crop: area as a fraction of the image, aspect ratio width / height.

    The paper's Inception-style crop as the reference draws it. A crop covers at least a tenth of the image, whatever `area`
    allows. After 100 drawn shapes that do not fit, the box is the whole image.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def center_box(shape: tf.Tensor, proportion: float) -> tf.Tensor:
    """The box of the central square whose side is `proportion` of the image's shorter side."""
    side = tf.cast(tf.round(tf.cast(tf.reduce_min(shape[:2]), tf.float32) * proportion), tf.int32)
    side = tf.maximum(side, 1)
    top, left = (shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2
    return tf.stack([top, left, side, side])


def random_crops(
    image: tf.Tensor,
    augment: ConfigDict,
    seed: int,
    position: tf.Tensor,
    num_views: int,
    reduce_to: int | None = None,
) -> list[tf.Tensor]:
    """Decodes an image and crops it, once for each view. Where `augment.crop` is off, a view is the central square.

    With `augment.one_branch` all views share one random crop (paper section 3.1), and `augment.crop` crops the first view a
    second time.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      augment: `config.augment`.
      seed: of the run.
      position: global. The boxes are a function of (seed, position, view).
      num_views: how many.
      reduce_to: see `open_cropped`.

    Returns:
      uint8 `[crop height, crop width, 3]` for each view.
    """
    own = [tf_random.crop_seed(seed, position, view) for view in range(num_views)]

    def box(shape, seed):
        return random_box(shape, seed, augment.crop_area, augment.crop_aspect)

    def box_of_view(view):
        if augment.get("one_branch", False):
            return lambda shape: shared_box(shape, again=view == 0 and augment.crop)
        if augment.crop:
            return lambda shape: box(shape, own[view])
        return lambda shape: center_box(shape, 1.0)

    def shared_box(shape, again):
        shared = box(shape, tf_random.shared_crop_seed(seed, position))
        if not again:
            return shared
        within = box(tf.concat([shared[2:], [3]], axis=0), own[0])
        return tf.concat([shared[:2] + within[:2], within[2:]], axis=0)

    return open_cropped(image, [box_of_view(view) for view in range(num_views)], reduce_to)


def central_crop(image: tf.Tensor, proportion: float, reduce_to: int | None = None) -> tf.Tensor:
    """The crop for evaluation, uint8: the central square whose side is `proportion` of the image's shorter side."""
    return open_cropped(image, [lambda shape: center_box(shape, proportion)], reduce_to)[0]
