"""Which example stands at which global position: pure functions of (seed, position).

The training stream is one endless sequence of positions 0, 1, 2, ...: step s of a run with global batch B consumes the
positions [s B, (s + 1) B), and position p belongs to epoch p // n. Nothing else decides what a step sees, so a run
resumes at any step without stored iterators, and the number of hosts or threads changes nothing.
"""

import dataclasses

import numpy as np
import tensorflow as tf

# Every use of random numbers has a stream of its own. Views come in pairs of streams (crop box, all else).
_STREAMS = 64
_SHUFFLE = 32  # + attempt
_EPOCH = 48


def stream_seed(seed: int, stream: int, position: tf.Tensor) -> tf.Tensor:
    """An int64 seed `[2]` for TensorFlow's stateless random ops."""
    return tf.stack([tf.constant(seed * _STREAMS + stream, tf.int64), tf.cast(position, tf.int64)])


def view_seeds(seed: int, position: tf.Tensor, view: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The two seeds of one view of the image at a global position: for the crop box, and for everything else."""
    return stream_seed(seed, 2 * view, position), stream_seed(seed, 2 * view + 1, position)


def epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return stream_seed(seed, _EPOCH, epoch)


def permuted(position: tf.Tensor, num_examples: int, seed: int, attempt: int = 0) -> tf.Tensor:
    """The index of the example at a global position: each epoch is a new permutation of `num_examples`.

    Args:
      position: int64 scalar, the global position.
      num_examples: n.
      seed: of the run.
      attempt: 0 for the order itself; other values give other permutations, for replacements.

    Returns:
      int64 scalar in [0, n).
    """
    epoch, within = position // num_examples, position % num_examples
    if num_examples == 1:
        return tf.zeros([], tf.int64)
    key = stream_seed(seed, _SHUFFLE + attempt, epoch)
    return tf.random.experimental.index_shuffle(within, key, tf.constant(num_examples - 1, tf.int64))


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
        """This host's global positions, in order."""
        steps = tf.data.Dataset.counter(self.start_step, dtype=tf.int64)
        if self.num_steps is not None:
            steps = steps.take(self.num_steps)
        first = self.process_index * self.local_batch_size
        rows = np.arange(first, first + self.local_batch_size) if self.rows is None else self.rows
        rows = tf.constant(rows, tf.int64)
        return steps.flat_map(lambda step: tf.data.Dataset.from_tensor_slices(step * self.batch_size + rows))

    def piece(self, num_examples: int) -> tuple[int, int]:
        """This host's range [start, stop) of `num_examples` examples that are dealt out in consecutive pieces."""
        start = self.process_index * num_examples // self.process_count
        return start, (self.process_index + 1) * num_examples // self.process_count
