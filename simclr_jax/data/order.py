"""Which example stands at which global position: pure functions of (seed, position).

The training stream is one endless sequence of positions 0, 1, 2, ...: step s of a run with global batch B consumes the
positions [s B, (s + 1) B), and position p belongs to epoch p // n. Nothing else decides what a step sees, so a run
resumes at any step without stored iterators, and the number of hosts or threads changes nothing.
"""

import dataclasses
import math

import numpy as np

from simclr_jax.runtime.tensorflow import tf

# Every use of random numbers has a stream of its own. Views come in pairs of streams (crop box, all else).
_STREAMS = 64
_SHARED_CROP = 31
_NORMALS = 2**60  # beyond all of those
_SHUFFLE = 32  # + attempt
_EPOCH = 48
_SHUFFLE_KEY = 498247692  # what TensorFlow fills its shuffling op's seed up with


def stream_seed(seed: int, stream: int, position: tf.Tensor) -> tf.Tensor:
    """An int64 seed `[2]` for TensorFlow's stateless random ops; `[n, 2]` for several positions."""
    position = tf.cast(position, tf.int64)
    return tf.stack([tf.fill(tf.shape(position), tf.constant(seed * _STREAMS + stream, tf.int64)), position], axis=-1)


def crop_seed(seed: int, position: tf.Tensor, view: int) -> tf.Tensor:
    """The seed of the crop box of one view of the image at a global position; `uniforms` are for all else."""
    return stream_seed(seed, 2 * view, position)


def shared_crop_seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    """The seed of a crop box that all views have in common."""
    return stream_seed(seed, _SHARED_CROP, position)


def uniforms(seed: int, positions: tf.Tensor, view: int, count: int) -> tf.Tensor:
    """`count` numbers for one view of the image at each position: int64 `[n]` to float32 `[n, count]`, in [0, 1).

    TensorFlow's stateless ops take one seed a call, which for a number of small images costs more than augmenting them.
    This is a counter put through splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators").
    """
    stream = tf.constant(seed * _STREAMS + 2 * view + 1, tf.int64)
    places = tf.cast(positions, tf.int64)[:, None] * count + tf.range(count, dtype=tf.int64)
    return _uniforms(stream, places)


def normals(keys: tf.Tensor, count: int) -> tf.Tensor:
    """`count` standard normal numbers for each key: int64 `[n]` to float32 `[n, count]`."""
    keys += _NORMALS
    half = -(-count // 2)
    first = _uniforms(keys[:, None], tf.range(half, dtype=tf.int64)[None])
    second = _uniforms(keys[:, None], tf.range(half, 2 * half, dtype=tf.int64)[None])
    # Box and Muller's transform; one minus the first, since it can be 0 but never 1.
    radius, angle = tf.sqrt(-2.0 * tf.math.log(1.0 - first)), 2.0 * math.pi * second
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)[:, :count]


def _uniforms(stream: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Number `places` of streams: both int64, of shapes that go together; float32 in [0, 1)."""
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


def epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return stream_seed(seed, _EPOCH, epoch)


def permuted(position: tf.Tensor, num_examples: int, seed: int, attempt: int = 0) -> tf.Tensor:
    """The index of the example at a global position: each epoch is a new permutation of `num_examples`.

    Args:
      position: int64, a global position, or several, `[n]`.
      num_examples: of an epoch.
      seed: of the run.
      attempt: 0 for the order itself; other values give other permutations, for replacements.

    Returns:
      int64 in [0, num_examples), of the same shape.
    """
    epoch, within = position // num_examples, position % num_examples
    if num_examples == 1:
        return tf.zeros_like(position)
    # The op of `tf.random.experimental.index_shuffle`, which does not take a seed for each position.
    key = stream_seed(seed, _SHUFFLE + attempt, epoch)
    key = tf.concat([tf.fill(tf.shape(key[..., :1]), tf.constant(_SHUFFLE_KEY, tf.int64)), key], axis=-1)
    last = tf.constant(num_examples - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=within, seed=key, max_index=last, rounds=4)


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of the global sequence that one host reads, from a step on."""

    batch_size: int  # global
    start_step: int = 0
    num_steps: int | None = None  # None: endless
    process_index: int = 0
    process_count: int = 1
    # Which rows of every global batch this host's devices hold (`parallel.local_rows`), sorted int64 `[B / hosts]`; None
    # is the host's block of B / hosts consecutive ones.
    rows: np.ndarray | None = None

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count

    def positions(self) -> tf.data.Dataset:
        """This host's global positions, in order: int64 scalars."""
        return self.positions_of_steps().unbatch()

    def positions_of_steps(self) -> tf.data.Dataset:
        """The same a step at a time: int64 `[local batch]`."""
        steps = tf.data.Dataset.counter(self.start_step, dtype=tf.int64)
        if self.num_steps is not None:
            steps = steps.take(self.num_steps)
        first = self.process_index * self.local_batch_size
        rows = np.arange(first, first + self.local_batch_size) if self.rows is None else self.rows
        rows = tf.constant(rows, tf.int64)
        return steps.map(lambda step: step * self.batch_size + rows)

    def piece(self, num_examples: int) -> tuple[int, int]:
        """This host's range [start, stop) of `num_examples` examples that are dealt out in consecutive pieces."""
        start = self.process_index * num_examples // self.process_count
        return start, (self.process_index + 1) * num_examples // self.process_count
