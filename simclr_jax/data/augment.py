"""The augmentation family of SimCLR (paper appendix A; reference tf2/data_util.py), stateless, in TensorFlow.

In the paper's order: random resized crop, flip, colour jitter, greyscale, blur. Images are opened and cropped one by one
(`random_crops`, `resize`); all else works on a chunk of them, float32 `[n, height, width, 3]`, nominally in [0, 1], each
with parameters of its own (`random_views`), since a small image takes less time than the call of an op. Every op is also a
function of its own. All random numbers of a view come from its two seeds and always stand at the same place of the draw,
so turning one op off leaves the draws of all others as they were.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools

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


# --- Photometric operations with explicit parameters, one for each image -------------------------------------------


def _each(parameter: tf.Tensor) -> tf.Tensor:
    """`[n]` to `[n, 1, 1, 1]`."""
    return tf.reshape(tf.cast(parameter, tf.float32), [-1, 1, 1, 1])


def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies all values (SimCLRv2's and the reference's default; not TensorFlow's additive brightness)."""
    return images * _each(factor)


def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance from each channel's mean."""
    mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    return (images - mean) * _each(factor) + mean


def saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the saturation of HSV, up to 1: every channel's distance from the greatest one."""
    value = tf.reduce_max(images, axis=-1, keepdims=True)
    chroma = value - tf.reduce_min(images, axis=-1, keepdims=True)
    most = tf.math.divide_no_nan(tf.maximum(value, 0.0), chroma)
    return value - (value - images) * tf.minimum(_each(factor), most)


def hue(images: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the hue of HSV; `delta` in turns."""
    value = tf.reduce_max(images, axis=-1, keepdims=True)
    least = tf.reduce_min(images, axis=-1, keepdims=True)
    chroma = value - least
    red, green, blue = tf.split(images, 3, axis=-1)
    # The hue in sixths of a turn: where the greatest channel stands, and towards which side the middle one leans.
    sixths = tf.where(
        red == value, green - blue, tf.where(green == value, blue - red + 2.0 * chroma, red - green + 4.0 * chroma)
    )
    sixths = tf.math.floormod(tf.math.divide_no_nan(sixths, chroma) + 6.0 * _each(delta), 6.0)
    # From the distance to each channel's own hue to its share of the chroma.
    shares = tf.concat([tf.abs(sixths - 3.0) - 1.0, 2.0 - tf.abs(sixths - 2.0), 2.0 - tf.abs(sixths - 4.0)], axis=-1)
    return least + chroma * clip(shares)


def grayscale(images: tf.Tensor) -> tf.Tensor:
    """Luma in all three channels."""
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(images))


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur for square images of `side` pixels: a tenth, and odd. 23 at 224 px, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor, kernel_size: int) -> tf.Tensor:
    """Separable Gaussian blur with zero padding, of square images; `kernel_size` (odd) and `sigma` in pixels.

    As two products with a band matrix for each image, which is faster than a convolution for each.
    """
    side, radius = images.shape[1], kernel_size // 2
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    kernel = tf.exp(-(offsets**2) / (2.0 * tf.reshape(sigma, [-1, 1]) ** 2))
    kernel = kernel / tf.reduce_sum(kernel, axis=-1, keepdims=True)  # [n, kernel_size]
    distance = tf.range(side)[None, :] - tf.range(side)[:, None] + radius
    inside = (distance >= 0) & (distance < kernel_size)
    band = tf.where(inside, tf.gather(kernel, tf.where(inside, distance, 0), axis=1), 0.0)  # [n, side, side]
    for _ in range(2):  # along the height, then, the axes swapped, along the width
        rows = tf.reshape(images, [-1, side, side * 3])
        images = tf.transpose(tf.reshape(band @ rows, [-1, side, side, 3]), [0, 2, 1, 3])
    return images


def clip(images: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images, 0.0, 1.0)


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 1] and rounds `255 * image` to the nearest integer, half to even: at most 0.5 / 255 is lost."""
    return tf.cast(tf.round(clip(images) * 255.0), tf.uint8)


# --- The family ----------------------------------------------------------------------------------------------------


def _apply_each(images: tf.Tensor, which: tf.Tensor, parameters: tf.Tensor, ops: list[Callable]) -> tf.Tensor:
    """Each image through one op: `ops[which]`, int32 `[n]`, with its parameter `[n]`; `which == len(ops)` leaves it alone."""
    kinds = len(ops) + 1
    rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), which, kinds)
    parts = tf.dynamic_partition(images, which, kinds)
    parameters = tf.dynamic_partition(parameters, which, kinds)
    done = [op(part, parameter) for op, part, parameter in zip(ops, parts, parameters, strict=False)]
    return tf.dynamic_stitch(rows, [*done, parts[-1]])


def jitter(images: tf.Tensor, augment: ConfigDict, factors: tf.Tensor, order: tf.Tensor, apply: tf.Tensor) -> tf.Tensor:
    """Colour jitter: brightness, contrast, saturation and hue in random order, clipping to [0, 1] after each.

    Args:
      images: float32 `[n, height, width, 3]`.
      augment: `strength` times `brightness`, `contrast`, `saturation` (factors uniform in [max(0, 1 - b), 1 + b]) and
        `hue` (turns, uniform in [-b, b]). A bound of 0 leaves the op out.
      factors: float32 `[n, 4]`, uniform in [0, 1): where in its range each op's parameter lies.
      order: float32 `[n, 4]`, uniform: the ops are applied in the order of these numbers.
      apply: bool `[n]`: which images are jittered at all.
    """
    ranges, ops = [], []
    for op in (brightness, contrast, saturation, hue):
        bound = augment.strength * augment[op.__name__]
        ranges.append((-bound, bound) if op is hue else (max(0.0, 1.0 - bound), 1.0 + bound))
        ops.append(lambda images, parameter, op=op: clip(op(images, parameter)))
    kept = [index for index, (low, high) in enumerate(ranges) if low < high]
    if not kept:
        return images
    low, high = (tf.constant(ends) for ends in zip(*(ranges[index] for index in kept), strict=True))
    parameters = low + tf.gather(factors, kept, axis=1) * (high - low)
    sequence = tf.argsort(tf.gather(order, kept, axis=1))  # [n, ops]: which op comes at each place
    for place in range(len(kept)):
        chosen = sequence[:, place]
        parameter = tf.gather(parameters, chosen, batch_dims=1)
        which = tf.where(apply, chosen, len(kept))
        images = _apply_each(images, which, parameter, [ops[index] for index in kept])
    return images


def random_crops(image: tf.Tensor, seeds: Sequence[tf.Tensor], augment: ConfigDict) -> list[tf.Tensor]:
    """Opens an image and crops it, once for each view; the central square where `augment.crop` is off.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      seeds: of each view, the first of its `order.view_seeds`.
      augment: `config.augment`.

    Returns:
      uint8 `[crop height, crop width, 3]` for each view.
    """

    def box_of(seed):
        if augment.crop:
            return lambda shape: random_box(shape, seed, augment.crop_area, augment.crop_aspect)
        return lambda shape: center_box(shape, 1.0)

    return open_cropped(image, [box_of(seed) for seed in seeds])


def draw(seed: tf.Tensor) -> tf.Tensor:
    """All random numbers of a view but its crop's, from the second seed of `order.view_seeds`: float32, uniform."""
    return tf.random.stateless_uniform([_NUM_DRAWS], seed, alg="philox")


def random_views(crops: tf.Tensor, draws: tf.Tensor, augment: ConfigDict) -> tf.Tensor:
    """What makes resized crops views: flip, colour jitter, greyscale, blur.

    Args:
      crops: float32 `[n, size, size, 3]`, of `resize`.
      draws: `[n, ...]`, of `draw`.
      augment: `config.augment`. Fields of ops that it lacks (a supervised config has crop and flip only) are off.

    Returns:
      uint8 `[n, size, size, 3]`.
    """
    images = crops
    if augment.flip_prob > 0:
        images = tf.where(_each(draws[:, _FLIP]) < augment.flip_prob, tf.reverse(images, [2]), images)
    if augment.get("jitter_prob", 0) > 0 and augment.strength > 0:
        apply = draws[:, _JITTER] < augment.jitter_prob
        images = jitter(images, augment, draws[:, _FACTORS], draws[:, _ORDER], apply)
    if augment.get("grayscale_prob", 0) > 0:
        images = tf.where(_each(draws[:, _GRAYSCALE]) < augment.grayscale_prob, grayscale(images), images)
    kernel_size = blur_kernel_size(images.shape[1])
    if augment.get("blur_prob", 0) > 0 and kernel_size > 1:
        low, high = augment.blur_sigma
        which = tf.where(draws[:, _BLUR] < augment.blur_prob, 0, 1)
        sigma = low + draws[:, _SIGMA] * (high - low)
        blur = functools.partial(gaussian_blur, kernel_size=kernel_size)
        images = _apply_each(clip(images), which, sigma, [blur])
    return to_uint8(images)


def central_crop(image: tf.Tensor, proportion: float) -> tf.Tensor:
    """How an image is seen in evaluation: the central square of `proportion` of its shorter side, uint8."""
    return open_cropped(image, [lambda shape: center_box(shape, proportion)])[0]
