"""The augmentation family of SimCLR (paper appendix A; reference tf2/data_util.py), stateless, in TensorFlow.

In the paper's order: random resized crop, flip, colour jitter, greyscale, blur. Images are opened and cropped one by one
(`random_crops`, `resize`); all else works on a chunk of them, each with parameters of its own (`random_views`), since a
small image takes less time than the call of an op. Every op is also a function of its own. All random numbers of a view
are a function of (seed, position, view) and always stand at the same place of the draw, so turning one op off leaves the
draws of all others as they were.

Ops on chunks take planes, float32 `[n, 3, height, width]`, nominally in [0, 1]: with the channels first, TensorFlow's CPU
kernels run several times as fast.
"""

from collections.abc import Callable
from collections.abc import Sequence

from ml_collections import ConfigDict
import tensorflow as tf

# Places in the draw of uniform numbers that belongs to a view.
_FLIP, _JITTER, _GRAYSCALE, _BLUR, _SIGMA = range(5)
_FACTORS = slice(5, 9)
_ORDER = slice(9, 13)
NUM_DRAWS = 13


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


# --- Photometric operations on planes [n, 3, height, width], with explicit parameters [n] ---------------------------


def _each(parameter: tf.Tensor) -> tf.Tensor:
    """`[n]` to `[n, 1, 1, 1]`."""
    return tf.reshape(tf.cast(parameter, tf.float32), [-1, 1, 1, 1])


def flip(planes: tf.Tensor) -> tf.Tensor:
    """Left to right."""
    return tf.reverse(planes, [3])


def brightness(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies all values (SimCLRv2's and the reference's default; not TensorFlow's additive brightness)."""
    return planes * _each(factor)


def contrast(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance from each channel's mean."""
    mean = tf.reduce_mean(planes, axis=(2, 3), keepdims=True)
    return (planes - mean) * _each(factor) + mean


def saturation(planes: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the saturation of HSV, up to 1: every channel's distance from the greatest one."""
    value, chroma = _value_and_chroma(planes)
    most = tf.math.divide_no_nan(tf.maximum(value, 0.0), chroma)
    return value - (value - planes) * tf.minimum(_each(factor), most)


def hue(planes: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the hue of HSV; `delta` in turns."""
    value, chroma = _value_and_chroma(planes)
    red, green, blue = tf.split(planes, 3, axis=1)
    # The hue in sixths of a turn: where the greatest channel stands, and towards which side the middle one leans. Weights
    # of 0 and 1 instead of tf.where, which is slow.
    is_red = tf.cast(red >= value, tf.float32)
    is_green = (1.0 - is_red) * tf.cast(green >= value, tf.float32)
    is_blue = 1.0 - is_red - is_green
    lean = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sixths = tf.math.divide_no_nan(lean, chroma) + (2.0 * is_green + 4.0 * is_blue + 6.0 * _each(delta))
    sixths -= 6.0 * tf.floor(sixths / 6.0)
    # From the distance to each channel's own hue to its share of the chroma.
    shares = tf.concat([tf.abs(sixths - 3.0) - 1.0, 2.0 - tf.abs(sixths - 2.0), 2.0 - tf.abs(sixths - 4.0)], axis=1)
    return (value - chroma) + chroma * clip(shares)


def _value_and_chroma(planes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The greatest channel, and by how much it is above the least: twice `[n, 1, height, width]`."""
    value = tf.reduce_max(planes, axis=1, keepdims=True)
    return value, value - tf.reduce_min(planes, axis=1, keepdims=True)


def grayscale(planes: tf.Tensor) -> tf.Tensor:
    """Luma in all three channels."""
    red, green, blue = tf.split(planes, 3, axis=1)
    luma = 0.2989 * red + 0.587 * green + 0.114 * blue
    return tf.concat([luma] * 3, axis=1)


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur for square images of `side` pixels: a tenth, and odd. 23 at 224 px, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


def gaussian_blur(planes: tf.Tensor, sigma: tf.Tensor, kernel_size: int) -> tf.Tensor:
    """Separable Gaussian blur with zero padding; `sigma` and `kernel_size` (odd) in pixels."""
    _, _, height, width = planes.shape
    radius = kernel_size // 2
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    kernel = tf.exp(-(offsets**2) / (2.0 * tf.reshape(sigma, [-1, 1]) ** 2))
    kernel = kernel / tf.reduce_sum(kernel, axis=-1, keepdims=True)  # [n, kernel_size]
    # All planes as the channels of one image, each of which a depthwise convolution gives a kernel of its own.
    kernel = tf.transpose(tf.repeat(kernel, 3, axis=0))[:, None, :, None]
    image = tf.transpose(tf.reshape(planes, [1, -1, height, width]), [0, 2, 3, 1])
    image = tf.nn.depthwise_conv2d(image, kernel, strides=[1, 1, 1, 1], padding="SAME")
    image = tf.nn.depthwise_conv2d(image, tf.transpose(kernel, [1, 0, 2, 3]), strides=[1, 1, 1, 1], padding="SAME")
    return tf.reshape(tf.transpose(image, [0, 3, 1, 2]), [-1, 3, height, width])


def clip(images: tf.Tensor) -> tf.Tensor:
    """To [0, 1], of any layout."""
    return tf.clip_by_value(images, 0.0, 1.0)


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 1] and rounds `255 * image` to the nearest integer, half to even: at most 0.5 / 255 is lost."""
    return tf.cast(tf.round(clip(images) * 255.0), tf.uint8)


# --- The family ----------------------------------------------------------------------------------------------------


def _apply_each(planes: tf.Tensor, which: tf.Tensor, ops: Sequence[Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]):
    """Each image through the op that `which`, int32 `[n]`, gives it; `len(ops)` leaves it alone.

    An op is called with its images and their numbers in the chunk, int32.
    """
    kinds = len(ops) + 1
    rows = tf.dynamic_partition(tf.range(tf.shape(planes)[0]), which, kinds)
    parts = tf.dynamic_partition(planes, which, kinds)
    done = [op(part, number) for op, part, number in zip(ops, parts, rows, strict=False)]
    return tf.dynamic_stitch(rows, [*done, parts[-1]])


def _apply_some(planes: tf.Tensor, chosen: tf.Tensor, op: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    return _apply_each(planes, 1 - tf.cast(chosen, tf.int32), [op])


def jitter(planes: tf.Tensor, augment: ConfigDict, factors: tf.Tensor, order: tf.Tensor, chosen: tf.Tensor):
    """Colour jitter: brightness, contrast, saturation and hue in random order, clipping to [0, 1] after each.

    Args:
      planes: float32 `[n, 3, height, width]`.
      augment: `strength` times `brightness`, `contrast`, `saturation` (factors uniform in [max(0, 1 - b), 1 + b]) and
        `hue` (turns, uniform in [-b, b]). A bound of 0 leaves the op out.
      factors: float32 `[n, 4]`, uniform in [0, 1): where in its range each op's parameter lies.
      order: float32 `[n, 4]`, uniform: the ops are applied in the order of these numbers.
      chosen: bool `[n]`: which images are jittered at all.
    """
    ops, kept = [], []
    for index, op in enumerate((brightness, contrast, saturation, hue)):
        bound = augment.strength * augment[op.__name__]
        if bound > 0:
            low, high = (-bound, bound) if op is hue else (max(0.0, 1.0 - bound), 1.0 + bound)
            parameter = low + factors[:, index] * (high - low)
            ops.append(lambda some, rows, op=op, parameter=parameter: clip(op(some, tf.gather(parameter, rows))))
            kept.append(index)
    if not ops:
        return planes
    sequence = tf.argsort(tf.gather(order, kept, axis=1))  # [n, ops]: which op comes at each place
    for place in range(len(ops)):
        planes = _apply_each(planes, tf.where(chosen, sequence[:, place], len(ops)), ops)
    return planes


def random_crops(image: tf.Tensor, seeds: Sequence[tf.Tensor], augment: ConfigDict) -> list[tf.Tensor]:
    """Opens an image and crops it, once for each view; the central square where `augment.crop` is off.

    Args:
      image: encoded bytes (scalar string) or uint8 pixels `[height, width, 3]`.
      seeds: of each view, its `order.crop_seed`.
      augment: `config.augment`.

    Returns:
      uint8 `[crop height, crop width, 3]` for each view.
    """

    def box_of(seed):
        if augment.crop:
            return lambda shape: random_box(shape, seed, augment.crop_area, augment.crop_aspect)
        return lambda shape: center_box(shape, 1.0)

    return open_cropped(image, [box_of(seed) for seed in seeds])


def random_views(crops: tf.Tensor, draws: tf.Tensor, augment: ConfigDict) -> tf.Tensor:
    """What makes resized crops views: flip, colour jitter, greyscale, blur.

    Args:
      crops: float32 `[n, size, size, 3]`, of `resize`.
      draws: float32 `[n, NUM_DRAWS]`, of `order.uniforms`.
      augment: `config.augment`. Fields of ops that it lacks (a supervised config has crop and flip only) are off.

    Returns:
      uint8 `[n, size, size, 3]`.
    """
    planes = tf.transpose(crops, [0, 3, 1, 2])
    if augment.flip_prob > 0:
        planes = _apply_some(planes, draws[:, _FLIP] < augment.flip_prob, lambda some, rows: flip(some))
    if augment.get("jitter_prob", 0) > 0 and augment.strength > 0:
        chosen = draws[:, _JITTER] < augment.jitter_prob
        planes = jitter(planes, augment, draws[:, _FACTORS], draws[:, _ORDER], chosen)
    if augment.get("grayscale_prob", 0) > 0:
        chosen = draws[:, _GRAYSCALE] < augment.grayscale_prob
        planes = _apply_some(planes, chosen, lambda some, rows: grayscale(some))
    kernel_size = blur_kernel_size(planes.shape[2])
    if augment.get("blur_prob", 0) > 0 and kernel_size > 1:
        low, high = augment.blur_sigma
        sigma = low + draws[:, _SIGMA] * (high - low)

        def blur(some, rows):
            # The convolution refuses to work on nothing.
            return tf.cond(
                tf.size(rows) > 0, lambda: gaussian_blur(some, tf.gather(sigma, rows), kernel_size), lambda: some
            )

        planes = _apply_some(clip(planes), draws[:, _BLUR] < augment.blur_prob, blur)
    return to_uint8(tf.transpose(planes, [0, 2, 3, 1]))


def central_crop(image: tf.Tensor, proportion: float) -> tf.Tensor:
    """How an image is seen in evaluation: the central square of `proportion` of its shorter side, uint8."""
    return open_cropped(image, [lambda shape: center_box(shape, proportion)])[0]
