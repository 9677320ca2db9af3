"""The operations of `augment.family` in TensorFlow, stateless (paper section 3, appendix A; reference tf2/data_util.py).

The paper's own recipe is crop (`tf_crops`), flip, colour, blur; the other operations are those of its composition experiment
(figure 5). They work on a chunk of images, each with its own parameters, because the call of an op takes longer than a small
image. All random numbers of a view are a function of (seed, position, view).

Operations take planes, float32 `[n, 3, height, width]`, nominally in [0, 1]: with the channels first, TensorFlow's CPU kernels
run several times as fast.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float32
from jaxtyping import Shaped
from jaxtyping import UInt8
from ml_collections import ConfigDict

from simclr_jax.augment import family
from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

Planes = Float32[tf.Tensor, "n 3 height width"]

# --- Operations on planes, with explicit parameters `[n]` ----------------------------------------------------------


def _for_pixels(parameter: tf.Tensor) -> Float32[tf.Tensor, "n 1 1 1"]:
    return tf.reshape(tf.cast(parameter, tf.float32), [-1, 1, 1, 1])


def flip(planes: Planes) -> Planes:
    """Mirrors left and right."""
    return tf.reverse(planes, [3])


def brightness(planes: Planes, factor: tf.Tensor) -> Planes:
    """Multiplies all values by `factor` (the default of SimCLRv2 and the reference, not TensorFlow's additive brightness)."""
    return planes * _for_pixels(factor)


def contrast(planes: Planes, factor: tf.Tensor) -> Planes:
    """Scales the distance from each channel's mean by `factor`."""
    mean = tf.reduce_mean(planes, axis=(2, 3), keepdims=True)
    return (planes - mean) * _for_pixels(factor) + mean


def saturation(planes: Planes, factor: tf.Tensor) -> Planes:
    """Scales the saturation of HSV by `factor`, up to 1: every channel's distance from the largest one."""
    value, chroma = _value_and_chroma(planes)
    most = tf.math.divide_no_nan(tf.maximum(value, 0.0), chroma)
    return value - (value - planes) * tf.minimum(_for_pixels(factor), most)


def hue(planes: Planes, delta: tf.Tensor) -> Planes:
    """Shifts the hue of HSV by `delta`, in turns."""
    value, chroma = _value_and_chroma(planes)
    red, green, blue = tf.split(planes, 3, axis=1)
    # The hue in sixths of a turn: the place of the largest channel, shifted towards the second largest one. Weights of 0 and 1
    # instead of tf.where, which is slow.
    is_red = tf.cast(red >= value, tf.float32)
    is_green = (1.0 - is_red) * tf.cast(green >= value, tf.float32)
    is_blue = 1.0 - is_red - is_green
    lean = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sixths = tf.math.divide_no_nan(lean, chroma) + (2.0 * is_green + 4.0 * is_blue + 6.0 * _for_pixels(delta))
    sixths -= 6.0 * tf.floor(sixths / 6.0)
    # From the distance to each channel's own hue to its fraction of the chroma.
    fractions = tf.concat([tf.abs(sixths - 3.0) - 1.0, 2.0 - tf.abs(sixths - 2.0), 2.0 - tf.abs(sixths - 4.0)], axis=1)
    return (value - chroma) + chroma * clip(fractions)


def _value_and_chroma(
    planes: Planes,
) -> tuple[Float32[tf.Tensor, "n 1 height width"], Float32[tf.Tensor, "n 1 height width"]]:
    """The largest channel, and its distance from the smallest one."""
    value = tf.reduce_max(planes, axis=1, keepdims=True)
    return value, value - tf.reduce_min(planes, axis=1, keepdims=True)


def grayscale(planes: Planes) -> Planes:
    """Luma in all three channels."""
    red, green, blue = tf.split(planes, 3, axis=1)
    luma = 0.2989 * red + 0.587 * green + 0.114 * blue
    return tf.concat([luma] * 3, axis=1)


def gaussian_blur(planes: Planes, sigma: tf.Tensor, kernel_size: int) -> Planes:
    """Separable Gaussian blur with zero padding; `sigma` and `kernel_size` (odd) in pixels."""
    _, _, height, width = planes.shape
    radius = kernel_size // 2
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    kernel = tf.exp(-(offsets**2) / (2.0 * tf.reshape(sigma, [-1, 1]) ** 2))
    kernel = kernel / tf.reduce_sum(kernel, axis=-1, keepdims=True)  # [n, kernel_size]
    # All planes become the channels of one image: a depthwise convolution has one kernel for each channel.
    kernel = tf.transpose(tf.repeat(kernel, 3, axis=0))[:, None, :, None]
    image = tf.transpose(tf.reshape(planes, [1, -1, height, width]), [0, 2, 3, 1])
    image = tf.nn.depthwise_conv2d(image, kernel, strides=[1, 1, 1, 1], padding="SAME")
    image = tf.nn.depthwise_conv2d(image, tf.transpose(kernel, [1, 0, 2, 3]), strides=[1, 1, 1, 1], padding="SAME")
    return tf.reshape(tf.transpose(image, [0, 3, 1, 2]), [-1, 3, height, width])


def rotate(planes: Shaped[tf.Tensor, "n 3 side side"], turns: int) -> Shaped[tf.Tensor, "n 3 side side"]:
    """Rotates square images by `turns` quarter turns, anticlockwise."""
    turns %= 4
    if turns % 2:
        planes = tf.transpose(planes, [0, 1, 3, 2])
    axes = {0: [], 1: [2], 2: [2, 3], 3: [3]}[turns]
    return tf.reverse(planes, axes) if axes else planes


def sobel(planes: Planes) -> Planes:
    """The magnitude of each channel's gradient by Sobel's filters, scaled so that the steepest edge along an axis is 1."""
    padded = tf.pad(planes, [[0, 0], [0, 0], [1, 1], [1, 1]], "REFLECT")
    across = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
    along = padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]
    down = across[..., 2:, :] - across[..., :-2, :]
    right = along[..., 2:] - along[..., :-2]
    return tf.sqrt(down**2 + right**2) / 4.0


def noise(planes: Planes, std: float, normals: Planes) -> Planes:
    """Adds standard normal numbers times `std`."""
    return planes + std * normals


def cutout(planes: Planes, top: tf.Tensor, left: tf.Tensor, half_side: int) -> Planes:
    """Makes a square grey (DeVries & Taylor 2017, arXiv 1708.04552). The part of it outside the image is cut off.

    Args:
      planes: to change.
      top, left: the centre of each square, int32, in pixels.
      half_side: pixels from the centre to the sides.
    """

    def inside(centre, side):
        return tf.abs(tf.cast(tf.range(side) - centre[:, None], tf.float32) + 0.5) < half_side

    rows, columns = inside(top, planes.shape[2]), inside(left, planes.shape[3])
    cut = tf.cast(rows[:, None, :, None] & columns[:, None, None, :], tf.float32)
    return planes + cut * (family.CUTOUT_VALUE - planes)


def clip(images: Float32[tf.Tensor, "..."]) -> Float32[tf.Tensor, "..."]:
    """To [0, 1], in any layout."""
    return tf.clip_by_value(images, 0.0, 1.0)


def to_uint8(images: Float32[tf.Tensor, "..."]) -> UInt8[tf.Tensor, "..."]:
    """Clips to [0, 1] and rounds `255 * image` to the nearest integer, half to even: an error of at most 0.5 / 255."""
    return tf.cast(tf.round(clip(images) * 255.0), tf.uint8)


# From this side on, one image at a time goes through the operations. To divide a chunk among them copies it twice for each
# operation, which takes longer than the calls of ops that it saves.
LARGE_SIDE = 128


# --- The family ----------------------------------------------------------------------------------------------------


def _apply_each(planes: Planes, which: tf.Tensor, ops: Sequence[Callable[[Planes, tf.Tensor], Planes]]) -> Planes:
    """Applies to each image one of some operations.

    Args:
      planes: the images.
      which: int32 `[n]`, the number of the operation for each image; `len(ops)` for none.
      ops: functions of some of the images and of their rows, int32.
    """
    if planes.shape[0] == 1:  # nothing to divide
        branches = [lambda op=op: op(planes, tf.zeros([1], tf.int32)) for op in ops]
        return tf.switch_case(which[0], [*branches, lambda: planes])
    kinds = len(ops) + 1
    rows = tf.dynamic_partition(tf.range(tf.shape(planes)[0]), which, kinds)
    parts = tf.dynamic_partition(planes, which, kinds)
    done = [op(part, number) for op, part, number in zip(ops, parts, rows, strict=False)]
    return tf.dynamic_stitch(rows, [*done, parts[-1]])


def _apply_chosen(
    planes: Planes, chosen: tf.Tensor, op: Callable[..., Planes], drawn: dict[str, Any], settings: dict[str, Any]
) -> Planes:
    """Applies `op` to the chosen images, bool `[n]`, each with its own drawn parameters, `[n]` by name."""

    def op_on_rows(some: Planes, rows: tf.Tensor) -> Planes:
        return op(some, **tf.nest.map_structure(lambda values: tf.gather(values, rows), drawn), **settings)

    return _apply_each(planes, 1 - tf.cast(chosen, tf.int32), [op_on_rows])


def _rotate_each(planes: Planes, turns: tf.Tensor) -> Planes:
    """Rotates each image by its own number of quarter turns: float32 `[n]` in [0, 4), rounded down."""
    turns = tf.cast(turns, tf.int32)
    ops = [lambda some, rows, turns=turns: rotate(some, turns) for turns in (1, 2, 3)]
    return _apply_each(planes, (turns - 1) % 4, ops)


def jitter(planes: Planes, factors: dict[str, tf.Tensor], order: dict[str, tf.Tensor]) -> Planes:
    """Colour jitter: operations in random order, clipping to [0, 1] after each. Every image has its own order.

    Args:
      planes: the images.
      factors: the parameter `[n]` of each operation that is on, by a name of `family.JITTER_OPS`.
      order: `[n]` by the same names; the operations are applied in ascending order of these numbers.
    """

    def make_op(name: str) -> Callable[[Planes, tf.Tensor], Planes]:
        return lambda some, rows: clip(_JITTER_OPS[name](some, tf.gather(factors[name], rows)))

    ops = [make_op(name) for name in factors]
    sequence = tf.argsort(
        tf.stack([order[name] for name in factors], axis=1)
    )  # [n, ops]: which operation at each place
    for place in range(len(ops)):
        planes = _apply_each(planes, sequence[:, place], ops)
    return planes


_JITTER_OPS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def _unless_empty(planes: Planes, op: Callable[[Planes], Planes]) -> Planes:
    """For operations whose TensorFlow kernels fail on no images: draws can choose none in a chunk."""
    return tf.cond(tf.shape(planes)[0] > 0, lambda: op(planes), lambda: planes)


def _add_noise(planes: Planes, key: tf.Tensor, std: float) -> Planes:
    _, channels, height, width = planes.shape
    normals = tf_random.normals(tf.cast(key, tf.int64), channels * height * width)
    return clip(noise(planes, std, tf.reshape(normals, tf.shape(planes))))


# How each operation of `family.OPS` is computed, from its drawn parameters and its settings.
_OPS = {
    "flip": flip,
    "rotate": _rotate_each,
    "jitter": jitter,
    "grayscale": grayscale,
    "sobel": lambda planes: _unless_empty(planes, lambda some: clip(sobel(some))),
    "blur": lambda planes, sigma, kernel_size: _unless_empty(
        planes, lambda some: gaussian_blur(some, sigma, kernel_size)
    ),
    "noise": _add_noise,
    "cutout": lambda planes, top, left, half_side: cutout(
        planes, tf.cast(top, tf.int32), tf.cast(left, tf.int32), half_side
    ),
}


def _apply(
    ops: Sequence[family.Op], planes: Planes, draws: Float32[tf.Tensor, "n draws"], augment: ConfigDict
) -> Planes:
    """Applies those of `ops` that are on, each to the images that its draws choose."""
    side = planes.shape[2]
    for op in ops:
        if op.is_on(augment, side):
            drawn, settings = op.drawn(draws, augment, side), op.settings(augment, side)
            planes = _apply_chosen(planes, op.chosen(draws, augment), _OPS[op.name], drawn, settings)  # type: ignore[arg-type]
    return planes


def random_views(
    crops: Float32[tf.Tensor, "n size size 3"], draws: Float32[tf.Tensor, "n draws"], augment: ConfigDict
) -> UInt8[tf.Tensor, "n size size 3"]:
    """Makes views of resized crops: all of the family after the crop.

    Args:
      crops: from `tf_crops.resize`.
      draws: from `tf_random.uniforms`, `family.NUM_DRAWS` for each view.
      augment: `config.augment`. An operation whose fields are missing (a supervised config has crop and flip only) is off.
    """
    before_clip = family.OPS_BEFORE_CLIP
    planes = tf.transpose(crops, [0, 3, 1, 2])
    if planes.shape[2] < LARGE_SIDE:
        planes = _apply(before_clip, planes, draws, augment)
    else:
        planes = tf.map_fn(
            lambda one: _apply(before_clip, one[0][None], one[1][None], augment)[0],
            (planes, draws),
            fn_output_signature=tf.TensorSpec(planes.shape[1:], tf.float32),
        )
    planes = clip(planes)
    planes = _apply(family.OPS_AFTER_CLIP, planes, draws, augment)
    return to_uint8(tf.transpose(planes, [0, 2, 3, 1]))
