"""Decode the images of a source into one array, by TensorFlow or, where it is not installed, by Pillow."""

import concurrent.futures
import logging
import os

import numpy as np

from simclr_jax.augment import image_files
from simclr_jax.augment import numpy_crops
from simclr_jax.augment.image_files import DEFAULT_DECODING
from simclr_jax.augment.image_files import Decoding
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.errors import UserError
from simclr_jax.runtime import tensorflow

log = logging.getLogger("simclr_jax")

# Images that are decoded at a time.
_CHUNK = 256


def as_arrays(source: RandomAccess) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a source, decoded: uint8 `[n, height, width, 3]` and int32 `[n]`, -1 for no label.

    Raises:
      UserError: naming the first image that cannot be read, or whose shape is not that of the first image.
    """
    return decode(source, 0, source.num_examples, first_shape(source)), labels_of(source)


def labels_of(source: RandomAccess) -> np.ndarray:
    """The labels of a source, int32 `[n]`; -1 where an image has none, or may have several."""
    if source.class_names is None or source.multi_label:  # pretraining uses no list of labels
        return np.full(source.num_examples, -1, np.int32)
    return np.asarray(source.labels, np.int32)


def first_shape(source: RandomAccess, decoding: Decoding = DEFAULT_DECODING) -> tuple[int, ...]:
    """Height, width and channels of the first image, which is decoded."""
    return tuple(_open(source, 0, decoding).shape)


def _open(source: RandomAccess, index: int, decoding: Decoding) -> np.ndarray:
    """One image, uint8 `[height, width, 3]`."""
    try:
        content = source.content(index)
        if not isinstance(content, bytes) or not tensorflow.is_installed():
            return numpy_crops.decode(content, decoding)
        return image_files.decode(tensorflow.tf.constant(decoding.completed_bytes(content))).numpy()
    except Exception as error:  # each decoder raises different errors
        log.debug("image %d: %s", index, error)
        name, reason = source.describe(index), BadImages(source, 0.0).reason(index)
        raise UserError(f"cannot read the image {name}, which config.data.resident needs{reason}.") from None


def decode(
    source: RandomAccess, start: int, stop: int, shape: tuple[int, ...], decoding: Decoding = DEFAULT_DECODING
) -> np.ndarray:
    """The images [start, stop): uint8 `[stop - start, *shape]`."""
    if source.pixels is not None:
        return source.pixels[start:stop]
    whole = images = np.empty((stop - start, *shape), np.uint8)
    if stop > start and tensorflow.is_installed():
        done = _decode_with_tensorflow(images, source, start, decoding)
        if done == len(images):
            return whole
        start, images = start + done, images[done:]  # the loop below finds the image that failed, and says why

    def open_into(place: int) -> None:
        pixels = _open(source, start + place, decoding)
        if pixels.shape != shape:
            raise UserError(
                f"config.data.resident needs images of one shape, but {source.describe(start + place)} is "
                f"{_pixels(pixels.shape)} and {source.describe(0)} is {_pixels(shape)} (height x width)."
            )
        images[place] = pixels

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(images), _CHUNK):  # so that an error ends it soon
            list(pool.map(open_into, range(first, min(first + _CHUNK, len(images)))))
    return whole


def _decode_with_tensorflow(images: np.ndarray, source: RandomAccess, start: int, decoding: Decoding) -> int:
    """Fills `images` from `start` on, up to about the first one that cannot be decoded or has another shape; how many."""
    tf = tensorflow.tf

    @tensorflow.without_autograph
    def load(index):
        return tf.ensure_shape(image_files.decode(decoding.completed(source.fetch(index))), images.shape[1:])

    examples = tf.data.Dataset.range(start, start + len(images))
    examples = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    done = 0
    try:
        for chunk in examples.batch(_CHUNK).prefetch(1).as_numpy_iterator():
            images[done : done + len(chunk)] = chunk
            done += len(chunk)
    except tf.errors.OpError as error:
        log.debug("after %d images: %s", done, error)
    return done


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
