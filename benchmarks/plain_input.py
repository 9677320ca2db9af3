"""The paper's augmentation written as TensorFlow offers it: operations of tf.image on one image at a time, random by state.

It is what the reference implementation does on the host (its structure, not its code): no order that can be made again, no
check of unreadable files. A contender of `benchmarks.input`.
"""

import pathlib
from typing import Any

# Of a colour distortion of strength 1, and the sizes of crops (paper, appendix A).
BRIGHTNESS = CONTRAST = SATURATION = 0.8
HUE = 0.2


def batches(folder: str, size: int, batch: int, strength: float, blur: bool) -> Any:
    """Endless batches uint8 `[batch, 2, size, size, 3]` of two views of each JPEG file in a folder."""
    from simclr_jax.runtime.tensorflow import tf

    def views(path: Any) -> Any:
        content = tf.io.read_file(path)
        return tf.stack([view(tf, content, size, strength, blur) for _ in range(2)])

    files = sorted(str(path) for path in pathlib.Path(folder).rglob("*.jpg"))
    paths = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    return paths.map(views, num_parallel_calls=tf.data.AUTOTUNE).batch(batch, drop_remainder=True).prefetch(2)


def view(tf: Any, content: Any, size: int, strength: float, blur: bool) -> Any:
    """One view of an encoded image, uint8 `[size, size, 3]`."""
    image = tf.image.random_flip_left_right(crop(tf, content, size) / 255.0)
    image = sometimes(tf, 0.8, lambda one: jitter(tf, one, strength), image)
    image = sometimes(tf, 0.2, lambda one: tf.tile(tf.image.rgb_to_grayscale(one), [1, 1, 3]), image)
    image = tf.clip_by_value(image, 0.0, 1.0)
    if blur:
        image = sometimes(tf, 0.5, lambda one: gaussian(tf, one, size), image)
    return tf.saturate_cast(image * 255.0, tf.uint8)


def crop(tf: Any, content: Any, size: int) -> Any:
    """A random box, decoded alone and resized: float32 in [0, 255]."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(content),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    box = tf.concat([begin[:2], extent[:2]], axis=0)
    image = tf.image.resize(tf.io.decode_and_crop_jpeg(content, box, channels=3), [size, size], method="bicubic")
    return tf.ensure_shape(image, [size, size, 3])


def sometimes(tf: Any, probability: float, change: Any, image: Any) -> Any:
    """The image, changed with a probability."""
    return tf.cond(tf.random.uniform([]) < probability, lambda: change(image), lambda: image)


def jitter(tf: Any, image: Any, strength: float) -> Any:
    """Brightness, contrast, saturation and hue in random order, with clipping after each."""
    bound = BRIGHTNESS * strength
    low, high = max(0.0, 1 - bound), 1 + bound
    changes = [
        lambda one: one * tf.random.uniform([], low, high),
        lambda one: tf.image.random_contrast(one, low, high),
        lambda one: tf.image.random_saturation(one, low, high),
        lambda one: tf.image.random_hue(one, HUE * strength),
    ]
    order = tf.random.shuffle(tf.range(len(changes)))
    for place in range(len(changes)):
        now = image
        branches = [lambda change=change, now=now: tf.clip_by_value(change(now), 0.0, 1.0) for change in changes]
        image = tf.switch_case(order[place], branches)
    return image


def gaussian(tf: Any, image: Any, size: int) -> Any:
    """Separable blur of random width with a kernel of a tenth of the side."""
    radius = size // 20
    sigma = tf.random.uniform([], 0.1, 2.0)
    weights = tf.exp(-(tf.range(-radius, radius + 1, dtype=tf.float32) ** 2) / (2.0 * sigma**2))
    kernel = tf.tile((weights / tf.reduce_sum(weights))[:, None, None, None], [1, 1, 3, 1])
    image = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(image, tf.transpose(kernel, [1, 0, 2, 3]), [1, 1, 1, 1], "SAME")[0]
