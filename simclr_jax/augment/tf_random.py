"""Random numbers in TensorFlow: pure functions of (seed, stream, position).

Every use of random numbers has its own stream. So drawing more numbers in one place changes none in another place.
"""

from __future__ import annotations

import math

from simclr_jax.runtime.tensorflow import tf

# Each view has two streams: 2 * view for its crop box, 2 * view + 1 for everything else.
STREAMS = 64
SHARED_CROP = 31
SHUFFLE = 32  # + attempt; used by data.order
EPOCH = 48  # likewise
_NORMALS = 2**60  # added to the keys of `normals`, beyond all streams above


def stream_seed(seed: int, stream: int, position: tf.Tensor) -> tf.Tensor:
    """An int64 seed `[2]` for TensorFlow's stateless random ops; `[n, 2]` for several positions."""
    position = tf.cast(position, tf.int64)
    return tf.stack([tf.fill(tf.shape(position), tf.constant(seed * STREAMS + stream, tf.int64)), position], axis=-1)


def crop_seed(seed: int, position: tf.Tensor, view: int) -> tf.Tensor:
    """The seed of the crop box of one view of the image at a global position. Everything else comes from `uniforms`."""
    return stream_seed(seed, 2 * view, position)


def shared_crop_seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    """The seed of the crop box that all views of an image share."""
    return stream_seed(seed, SHARED_CROP, position)


def uniforms(seed: int, positions: tf.Tensor, view: int, count: int) -> tf.Tensor:
    """`count` numbers for one view of the image at each position: int64 `[n]` to float32 `[n, count]`, in [0, 1).

    TensorFlow's stateless ops take one seed per call; for many small images these calls cost more than the augmentation. This
    hashes a counter with splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators").
    """
    stream = tf.constant(seed * STREAMS + 2 * view + 1, tf.int64)
    places = tf.cast(positions, tf.int64)[:, None] * count + tf.range(count, dtype=tf.int64)
    return _uniforms(stream, places)


def normals(keys: tf.Tensor, count: int) -> tf.Tensor:
    """`count` standard normal numbers for each key: int64 `[n]` to float32 `[n, count]`."""
    keys += _NORMALS
    half = -(-count // 2)
    first = _uniforms(keys[:, None], tf.range(half, dtype=tf.int64)[None])
    second = _uniforms(keys[:, None], tf.range(half, 2 * half, dtype=tf.int64)[None])
    # Box and Muller's transform. `1 - first`, because the logarithm needs a positive number and `first` can be 0 but not 1.
    radius, angle = tf.sqrt(-2.0 * tf.math.log(1.0 - first)), 2.0 * math.pi * second
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)[:, :count]


def _uniforms(stream: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """The numbers at `places` of `stream`: both int64, of shapes that broadcast; float32 in [0, 1)."""
    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    key = _mix(tf.cast(stream, tf.uint64) * golden)
    bits = _mix(tf.bitwise.bitwise_xor(key, _mix(tf.cast(places, tf.uint64) * golden)))
    return tf.cast(tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.int64), tf.float32) * 2.0**-24


def _mix(x: tf.Tensor) -> tf.Tensor:
    """A bijection of uint64 in which every bit depends on every bit."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint64)))
        x *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(31, tf.uint64)))
