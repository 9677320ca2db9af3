"""The order of the examples: which one is at which global position, a pure function of (seed, position).

The training stream is one endless sequence of positions 0, 1, 2, ... Step s of a run with global batch B consumes the positions
[s B, (s + 1) B), and position p belongs to epoch p // n. A step depends on nothing else. So a run resumes at any step without
stored iterators, and the number of hosts or threads changes nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

_SHUFFLE_KEY = 498247692  # the constant with which TensorFlow extends the seed of its shuffling op


def epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """An int64 seed `[2]` for everything that is drawn once per epoch."""
    return tf_random.stream_seed(seed, tf_random.EPOCH, epoch)


def permuted(position: tf.Tensor, num_examples: int, seed: int, attempt: int = 0) -> tf.Tensor:
    """The index of the example at a global position: each epoch is a new permutation of `num_examples`.

    Args:
      position: int64, one global position or several, `[n]`.
      num_examples: in an epoch.
      seed: of the run.
      attempt: 0 for the order itself. Other values give other permutations, for replacements of unreadable images.

    Returns:
      int64 in [0, num_examples), of the same shape.
    """
    epoch, within = position // num_examples, position % num_examples
    if num_examples == 1:
        return tf.zeros_like(position)
    # The op that implements `tf.random.experimental.index_shuffle`, which itself does not accept a seed for each position.
    key = tf_random.stream_seed(seed, tf_random.SHUFFLE + attempt, epoch)
    key = tf.concat([tf.fill(tf.shape(key[..., :1]), tf.constant(_SHUFFLE_KEY, tf.int64)), key], axis=-1)
    last = tf.constant(num_examples - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=within, seed=key, max_index=last, rounds=4)


@dataclasses.dataclass(frozen=True)
class HostShard:
    """The part of the global sequence that one host reads, from a step on."""

    batch_size: int  # global
    start_step: int = 0
    num_steps: int | None = None  # None: endless
    process_index: int = 0
    process_count: int = 1
    # Which rows of every global batch this host's devices hold (`sharding.local_rows`), sorted int64 `[B / hosts]`. None means
    # B / hosts consecutive rows.
    rows: np.ndarray | None = None

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count

    def positions(self) -> tf.data.Dataset:
        """This host's global positions, in order: int64 scalars."""
        return self.positions_of_steps().unbatch()

    def positions_of_steps(self) -> tf.data.Dataset:
        """This host's global positions, one step at a time: int64 `[local batch]`."""
        steps = tf.data.Dataset.counter(self.start_step, dtype=tf.int64)
        if self.num_steps is not None:
            steps = steps.take(self.num_steps)
        rows = tf.constant(self._rows(), tf.int64)
        return steps.map(lambda step: step * self.batch_size + rows)

    def positions_of_step(self, step: int) -> np.ndarray:
        """This host's global positions of a step, without TensorFlow: int64 `[local batch]`."""
        return step * self.batch_size + self._rows()

    def _rows(self) -> np.ndarray:
        first = self.process_index * self.local_batch_size
        return np.arange(first, first + self.local_batch_size) if self.rows is None else self.rows

    def piece(self, num_examples: int) -> tuple[int, int]:
        """This host's range [start, stop) when `num_examples` examples are divided among the hosts in consecutive pieces."""
        start = self.process_index * num_examples // self.process_count
        return start, (self.process_index + 1) * num_examples // self.process_count
