"""Opening images and cropping them (paper appendix A), stateless, in TensorFlow: one image at a time."""

from collections.abc import Callable
from collections.abc import Sequence

from ml_collections import ConfigDict

from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf


def decode(image: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, WebP, BMP or (the first frame of) GIF bytes to uint8 `[height, width, 3]`; pixels pass unchanged."""
    if image.dtype != tf.string:
        return image
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def open_cropped(image: tf.Tensor, choose_boxes: Sequence[Callable[[tf.Tensor], tf.Tensor]]) -> list[tf.Tensor]:
    """Opens the parts of an image that some boxes hold.

    A single part of a JPEG is decoded and cropped in one op, which skips most of the work. For two or more the whole image
    is decoded once: finding the place of a crop in a JPEG takes most of the time of decoding all of it.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      choose_boxes: each an int32 shape `[height, width, channels]` to an int32 box `[top, left, height, width]`.

    Returns:
      uint8 `[box height, box width, 3]` for each box.
    """

    def from_jpeg():
        box = choose_boxes[0](tf.io.extract_jpeg_shape(image))
        return tf.io.decode_and_crop_jpeg(image, box, channels=3)

    def from_pixels():
        pixels = decode(image)
        parts = []
        for choose_box in choose_boxes:
            top, left, height, width = tf.unstack(choose_box(tf.shape(pixels)))
            parts.append(pixels[top : top + height, left : left + width])
        return parts

    if image.dtype != tf.string or len(choose_boxes) > 1:
        return from_pixels()
    return [tf.cond(tf.io.is_jpeg(image), from_jpeg, lambda: from_pixels()[0])]


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[h, w, 3]` to float32 `[size, size, 3]`: bicubic without antialiasing, so a little outside [0, 1] too.

    The kernel behind `tf.image.resize(..., "bicubic")`, without its half a dozen other ops.
    """
    image = tf.raw_ops.ResizeBicubic(images=image[None], size=[size, size], half_pixel_centers=True)[0] / 255.0
    image.set_shape([size, size, 3])
    return image


def random_box(shape: tf.Tensor, seed: tf.Tensor, area: tuple[float, float], aspect: tuple[float, float]) -> tf.Tensor:
    """The box `[top, left, height, width]` of a random crop: area a share of the image, aspect ratio width / height.

    The paper's Inception-style crop as the reference draws it: at least a tenth of the image is covered, whatever `area`
    allows, and after 100 misses (the drawn shape does not fit) the box is the whole image.
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


def random_crops(image: tf.Tensor, augment: ConfigDict, seed: int, position: tf.Tensor, num_views: int):
    """Opens an image and crops it, once for each view; the central square where `augment.crop` is off.

    With `augment.one_branch` all views have one random crop in common (paper section 3.1), and `augment.crop` crops the
    first view once more.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      augment: `config.augment`.
      seed, position: of the run, and global: what the boxes are drawn from.
      num_views: how many.

    Returns:
      uint8 `[crop height, crop width, 3]` for each view.
    """
    own = [tf_random.crop_seed(seed, position, view) for view in range(num_views)]

    def box(shape, seed):
        return random_box(shape, seed, augment.crop_area, augment.crop_aspect)

    def box_of_view(view):
        if augment.get("one_branch", False):
            return lambda shape: box_in_common(shape, again=view == 0 and augment.crop)
        if augment.crop:
            return lambda shape: box(shape, own[view])
        return lambda shape: center_box(shape, 1.0)

    def box_in_common(shape, again):
        common = box(shape, tf_random.shared_crop_seed(seed, position))
        if not again:
            return common
        within = box(tf.concat([common[2:], [3]], axis=0), own[0])
        return tf.concat([common[:2] + within[:2], within[2:]], axis=0)

    return open_cropped(image, [box_of_view(view) for view in range(num_views)])


def central_crop(image: tf.Tensor, proportion: float) -> tf.Tensor:
    """How an image is seen in evaluation: the central square of `proportion` of its shorter side, uint8."""
    return open_cropped(image, [lambda shape: center_box(shape, proportion)])[0]
