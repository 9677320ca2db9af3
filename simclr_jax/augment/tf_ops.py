"""The augmentation family of SimCLR (paper section 3, appendix A; reference tf2/data_util.py), stateless, in TensorFlow.

In this order: random resized crop (`crops`), flip, rotation, colour jitter, greyscale, Sobel filter, blur, noise, cutout. The
paper's own recipe is crop, flip, colour, blur; the others are those of its composition experiment (figure 5). What is
here works on a chunk of images, each with parameters of its own, since a small image takes less time than the call of an
op. All random numbers of a view are a function of (seed, position, view).

Ops take planes, float32 `[n, 3, height, width]`, nominally in [0, 1]: with the channels first, TensorFlow's CPU kernels run
several times as fast.
"""

from collections.abc import Callable
from collections.abc import Sequence

from ml_collections import ConfigDict

from simclr_jax.augment import family
from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

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


def rotate(planes: tf.Tensor, turns: int) -> tf.Tensor:
    """Turns square images by `turns` quarter turns, anticlockwise."""
    turns %= 4
    if turns % 2:
        planes = tf.transpose(planes, [0, 1, 3, 2])
    axes = {0: [], 1: [2], 2: [2, 3], 3: [3]}[turns]
    return tf.reverse(planes, axes) if axes else planes


def sobel(planes: tf.Tensor) -> tf.Tensor:
    """The size of each channel's gradient by Sobel's filters, scaled so that the steepest edge along an axis is 1."""
    padded = tf.pad(planes, [[0, 0], [0, 0], [1, 1], [1, 1]], "REFLECT")
    across = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
    along = padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]
    down = across[..., 2:, :] - across[..., :-2, :]
    right = along[..., 2:] - along[..., :-2]
    return tf.sqrt(down**2 + right**2) / 4.0


def noise(planes: tf.Tensor, deviation: float, normals: tf.Tensor) -> tf.Tensor:
    """Adds `deviation` times standard normal numbers, of the planes' shape."""
    return planes + deviation * normals


def cutout(planes: tf.Tensor, top: tf.Tensor, left: tf.Tensor, reach: int) -> tf.Tensor:
    """Makes a square grey (DeVries & Taylor 2017, arXiv 1708.04552), or what of it is within the image.

    Args:
      planes: float32 `[n, 3, height, width]`.
      top, left: int32 `[n]`: its centre, in pixels.
      reach: pixels from the centre to its sides.
    """

    def inside(centre, side):
        return tf.abs(tf.cast(tf.range(side) - centre[:, None], tf.float32) + 0.5) < reach

    rows, columns = inside(top, planes.shape[2]), inside(left, planes.shape[3])
    cut = tf.cast(rows[:, None, :, None] & columns[:, None, None, :], tf.float32)
    return planes + cut * (family.CUTOUT_VALUE - planes)


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


def random_views(crops: tf.Tensor, draws: tf.Tensor, augment: ConfigDict) -> tf.Tensor:
    """What makes resized crops views: all of the family behind the crop.

    Args:
      crops: float32 `[n, size, size, 3]`, of `resize`.
      draws: float32 `[n, NUM_DRAWS]`, of `tf_random.uniforms`; see `family`.
      augment: `config.augment`. Fields of ops that it lacks (a supervised config has crop and flip only) are off.

    Returns:
      uint8 `[n, size, size, 3]`.
    """
    planes = tf.transpose(crops, [0, 3, 1, 2])
    size = planes.shape[2]

    def wanted(name: str) -> bool:
        return augment.get(f"{name}_prob", 0) > 0

    def chosen(place: int, name: str) -> tf.Tensor:
        return draws[:, place] < augment[f"{name}_prob"]

    if wanted("flip"):
        planes = _apply_some(planes, chosen(family.FLIP, "flip"), lambda some, rows: flip(some))
    if wanted("rotate"):
        turns = tf.cast(draws[:, family.TURNS] * 4.0, tf.int32)  # 0 to 3
        turned = chosen(family.ROTATE, "rotate") & (turns > 0)
        ops = [lambda some, rows, turns=turns: rotate(some, turns) for turns in (1, 2, 3)]
        planes = _apply_each(planes, tf.where(turned, turns - 1, 3), ops)
    if wanted("jitter") and augment.strength > 0:
        factors, sequence = draws[:, family.FACTORS], draws[:, family.ORDER]
        planes = jitter(planes, augment, factors, sequence, chosen(family.JITTER, "jitter"))
    if wanted("grayscale"):
        planes = _apply_some(planes, chosen(family.GRAYSCALE, "grayscale"), lambda some, rows: grayscale(some))
    planes = clip(planes)
    if wanted("sobel"):
        planes = _apply_some(planes, chosen(family.SOBEL, "sobel"), lambda some, rows: clip(sobel(some)))
    kernel_size = family.blur_kernel_size(size)
    if wanted("blur") and kernel_size > 1:
        low, high = augment.blur_sigma
        sigma = low + draws[:, family.SIGMA] * (high - low)

        def blur(some, rows):
            # The convolution refuses to work on nothing.
            return tf.cond(
                tf.size(rows) > 0, lambda: gaussian_blur(some, tf.gather(sigma, rows), kernel_size), lambda: some
            )

        planes = _apply_some(planes, chosen(family.BLUR, "blur"), blur)
    if wanted("noise"):
        keys = tf.cast(draws[:, family.NOISE_KEY] * family.NOISE_KEYS, tf.int64)

        def add_noise(some, rows):
            normals = tf_random.normals(tf.gather(keys, rows), 3 * size * size)
            return clip(noise(some, augment.noise_std, tf.reshape(normals, tf.shape(some))))

        planes = _apply_some(planes, chosen(family.NOISE, "noise"), add_noise)
    if wanted("cutout"):
        reach = family.cutout_reach(size, augment.cutout_side)
        down, right = (draws[:, place] for place in (family.CUTOUT_DOWN, family.CUTOUT_RIGHT))

        def cut(some, rows):
            top, left = (tf.cast(tf.gather(share, rows) * size, tf.int32) for share in (down, right))
            return cutout(some, top, left, reach)

        planes = _apply_some(planes, chosen(family.CUTOUT, "cutout"), cut)
    return to_uint8(tf.transpose(planes, [0, 2, 3, 1]))
