"""The augmentation family of SimCLR (paper appendix A; reference tf2/data_util.py), stateless, in TensorFlow.

`random_crop` and `random_view` compose the family; every op is also a function of its own with explicit parameters.
Images are float32 `[height, width, 3]`, nominally in [0, 1]; the operations are applied in the paper's order: random
resized crop, flip, colour jitter, greyscale, blur. All random numbers of a view come from its two seeds and always
stand at the same place of the draw, so turning one op off leaves the draws of all others as they were.
"""

from collections.abc import Callable

from ml_collections import ConfigDict
import tensorflow as tf

# Places in the draw of uniform numbers that belongs to a view.
_FLIP, _JITTER, _GRAYSCALE, _BLUR, _SIGMA = range(5)
_FACTORS = slice(5, 9)
_ORDER = slice(9, 13)
_NUM_DRAWS = 13


# --- Opening and cropping ------------------------------------------------------------------------------------------


def decode(image: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, WebP, BMP or (the first frame of) GIF bytes to uint8 `[height, width, 3]`; pixels pass unchanged."""
    if image.dtype != tf.string:
        return image
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def open_cropped(image: tf.Tensor, choose_box: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Opens the part of an image that a box holds. JPEG is decoded and cropped in one op, which skips most of the work.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      choose_box: int32 shape `[height, width, channels]` to the int32 box `[top, left, height, width]`.

    Returns:
      uint8 `[box height, box width, 3]`.
    """

    def from_jpeg():
        box = choose_box(tf.io.extract_jpeg_shape(image))
        return tf.io.decode_and_crop_jpeg(image, box, channels=3)

    def from_pixels():
        pixels = decode(image)
        top, left, height, width = tf.unstack(choose_box(tf.shape(pixels)))
        return pixels[top : top + height, left : left + width]

    if image.dtype != tf.string:
        return from_pixels()
    return tf.cond(tf.io.is_jpeg(image), from_jpeg, from_pixels)


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 `[h, w, 3]` to float32 `[size, size, 3]`: bicubic without antialiasing, so a little outside [0, 1] too."""
    image = tf.image.resize(tf.cast(image, tf.float32), [size, size], method="bicubic", antialias=False) / 255.0
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


# --- Photometric operations with explicit parameters ---------------------------------------------------------------


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies all values (SimCLRv2's and the reference's default; not TensorFlow's additive brightness)."""
    return image * factor


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance from each channel's mean."""
    return tf.image.adjust_contrast(image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the saturation of HSV."""
    return tf.image.adjust_saturation(image, factor)


def hue(image: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the hue of HSV; `delta` in turns."""
    return tf.image.adjust_hue(image, delta)


def grayscale(image: tf.Tensor) -> tf.Tensor:
    """Luma in all three channels."""
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur for square images of `side` pixels: a tenth, and odd. 23 at 224 px, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


def gaussian_blur(image: tf.Tensor, kernel_size: int, sigma: tf.Tensor) -> tf.Tensor:
    """Separable Gaussian blur with zero padding; `kernel_size` (odd) and `sigma` in pixels."""
    radius = kernel_size // 2
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    kernel = tf.exp(-(offsets**2) / (2.0 * sigma**2))
    kernel = kernel / tf.reduce_sum(kernel)
    kernel = tf.tile(kernel[:, None, None, None], [1, 1, 3, 1])
    image = tf.nn.depthwise_conv2d(image[None], kernel, strides=[1, 1, 1, 1], padding="SAME")
    image = tf.nn.depthwise_conv2d(image, tf.transpose(kernel, [1, 0, 2, 3]), strides=[1, 1, 1, 1], padding="SAME")
    return image[0]


def clip(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 1.0)


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 1] and rounds `255 * image` to the nearest integer, half to even: at most 0.5 / 255 is lost."""
    return tf.cast(tf.round(clip(image) * 255.0), tf.uint8)


# --- The family ----------------------------------------------------------------------------------------------------


def jitter(image: tf.Tensor, augment: ConfigDict, factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Colour jitter: brightness, contrast, saturation and hue in random order, clipping to [0, 1] after each.

    Args:
      image: float32 `[height, width, 3]`.
      augment: `strength` times `brightness`, `contrast`, `saturation` (factors uniform in [max(0, 1 - b), 1 + b]) and
        `hue` (turns, uniform in [-b, b]). A bound of 0 leaves the op out.
      factors: float32 `[4]`, uniform in [0, 1): where in its range each op's parameter lies.
      order: float32 `[4]`, uniform: the ops are applied in the order of these numbers.
    """
    bounds = [augment.strength * augment[name] for name in ("brightness", "contrast", "saturation", "hue")]

    def scaled(index: int) -> tf.Tensor:
        low, high = max(0.0, 1.0 - bounds[index]), 1.0 + bounds[index]
        return low + factors[index] * (high - low)

    ops = [
        lambda image: brightness(image, scaled(0)),
        lambda image: contrast(image, scaled(1)),
        lambda image: saturation(image, scaled(2)),
        lambda image: hue(image, (2.0 * factors[3] - 1.0) * bounds[3]),
    ]
    ops = [op for op, bound in zip(ops, bounds, strict=True) if bound > 0]
    kept = [index for index, bound in enumerate(bounds) if bound > 0]
    if not ops:
        return image
    sequence = tf.argsort(tf.gather(order, kept))
    for place in range(len(ops)):
        branches = [lambda op=op, image=image: clip(op(image)) for op in ops]
        image = tf.switch_case(sequence[place], branches)
    return image


def _maybe(apply: tf.Tensor, op: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
    return tf.cond(apply, lambda: op(image), lambda: image)


def random_crop(image: tf.Tensor, seed: tf.Tensor, augment: ConfigDict) -> tf.Tensor:
    """The first half of a view: opens the image and crops it; the central square where `augment.crop` is off.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      seed: the first seed of `order.view_seeds`.
      augment: `config.augment`.

    Returns:
      uint8 `[crop height, crop width, 3]`.
    """
    if augment.crop:
        return open_cropped(image, lambda shape: random_box(shape, seed, augment.crop_area, augment.crop_aspect))
    return open_cropped(image, lambda shape: center_box(shape, 1.0))


def random_view(crop: tf.Tensor, seed: tf.Tensor, augment: ConfigDict, size: int) -> tf.Tensor:
    """The second half of a view: resize, flip, colour jitter, greyscale, blur.

    Args:
      crop: uint8 `[crop height, crop width, 3]`.
      seed: the second seed of `order.view_seeds`.
      augment: `config.augment`. Fields of ops that it lacks (a supervised config has crop and flip only) are off.
      size: side of the view in pixels.

    Returns:
      uint8 `[size, size, 3]`.
    """
    draw = tf.random.stateless_uniform([_NUM_DRAWS], seed, alg="philox")
    image = resize(crop, size)
    if augment.flip_prob > 0:
        image = _maybe(draw[_FLIP] < augment.flip_prob, tf.image.flip_left_right, image)
    if augment.get("jitter_prob", 0) > 0 and augment.strength > 0:
        image = _maybe(
            draw[_JITTER] < augment.jitter_prob,
            lambda image: jitter(image, augment, draw[_FACTORS], draw[_ORDER]),
            image,
        )
    if augment.get("grayscale_prob", 0) > 0:
        image = _maybe(draw[_GRAYSCALE] < augment.grayscale_prob, grayscale, image)
    image = clip(image)
    kernel_size = blur_kernel_size(size)
    if augment.get("blur_prob", 0) > 0 and kernel_size > 1:
        low, high = augment.blur_sigma
        sigma = low + draw[_SIGMA] * (high - low)
        image = _maybe(draw[_BLUR] < augment.blur_prob, lambda image: gaussian_blur(image, kernel_size, sigma), image)
    return to_uint8(image)


def central_crop(image: tf.Tensor, proportion: float) -> tf.Tensor:
    """How an image is seen in evaluation: the central square of `proportion` of its shorter side, uint8."""
    return open_cropped(image, lambda shape: center_box(shape, proportion))
