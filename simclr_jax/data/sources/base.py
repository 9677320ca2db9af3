"""The interface of a source of images, and its implementation with random access.

A source yields *records*: a few candidates for every position of a sequence. The pipeline takes the first candidate that can be
read. So an unreadable image is replaced, always by the same image, and no position is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
from typing import Protocol

import numpy as np

from simclr_jax.augment import image_files
from simclr_jax.data import order
from simclr_jax.data.order import HostShard
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf

# How many examples are tried for one position before the run stops with an error; and how many once a first one could not be
# read: a third of a small folder may be unreadable.
CANDIDATES, MANY_CANDIDATES = 4, 64


class Source(Protocol):
    """Examples with an image and perhaps a label, numbered 0 to n - 1."""

    @property
    def name(self) -> str:
        """For messages: "cifar10, split train"."""

    @property
    def num_examples(self) -> int:
        """How many there are."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Of the classes 0, 1, ...; None: no labels."""

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several classes."""

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]`, or `[n, classes]` (see `RandomAccess`). Reads the whole source if they are not in memory."""

    def shuffled(self, shard: HostShard, seed: int, many: bool = False) -> tf.data.Dataset:
        """One host's endless training sequence: `{"position": int64, "candidates": ...}`, the candidates stacked.

        `many`: more candidates, after the same first ones, where the source can have them.
        """

    def ordered(self, shard: HostShard) -> tf.data.Dataset:
        """Examples 0 to n - 1 in order, each on one host and with one candidate, from `shard.start_step` on.

        Positions after the last example are padding: `read` gives any image, with label and index -1.
        """

    def read(self, record) -> dict[str, tf.Tensor]:
        """A candidate's `image` (encoded bytes, or uint8 pixels), `label` (int32, -1 for none) and `index` (int64).

        After an error while reading, the pipeline takes the next candidate.
        """

    def describe(self, index: int) -> str:
        """A name of this example for messages: a path, or its name in the data set."""

    def subset(self, indices: np.ndarray) -> RandomAccess:
        """Only these examples, renumbered from 0."""


@dataclasses.dataclass(frozen=True)
class RandomAccess:
    """A source that can read any example directly: arrays in memory, files in a folder or in records. Its records are indices.

    Every epoch is an exact permutation, and any position can be read without the positions before it.

    Attributes:
      fetch: int64 scalar index to the image (encoded bytes or uint8 pixels).
      all_labels: int32 `[n]`, or None. Where an example may have several classes, `[n, classes]`: 1 for its classes, 0 for all
        other ones, -1 for those that do not count in its evaluation.
      ids: a name of each example, or None if its number is enough.
      fetch_many: `fetch` of several, int64 `[n]` to bytes `[n]`, where one call for all of them takes less time. It never
        fails: where an image cannot be read, it gives empty bytes.
      read_content: `fetch` without TensorFlow, if there is such a way; see `content`.
      pixels: all images, uint8 `[n, height, width, 3]`, if they are in memory.
    """

    name: str
    num_examples: int
    fetch: Callable[[tf.Tensor], tf.Tensor]
    all_labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    fetch_many: Callable[[tf.Tensor], tf.Tensor] | None = None
    read_content: Callable[[int], bytes | np.ndarray] | None = None
    pixels: np.ndarray | None = None

    def content(self, index: int) -> bytes | np.ndarray:
        """An image as `fetch` gives it, encoded bytes or uint8 pixels `[height, width, 3]`, on the host.

        Raises:
          OSError: where it cannot be read.
        """
        if self.read_content is not None:
            return self.read_content(int(index))
        try:
            return self.fetch(tf.constant(index, tf.int64)).numpy()
        except tf.errors.OpError as error:
            raise OSError(image_files.reason_of(error)) from error

    @property
    def labels(self) -> np.ndarray:
        if self.all_labels is None:
            raise UserError(f"{self.name} has no labels.")
        return self.all_labels

    def shuffled(self, shard: HostShard, seed: int, many: bool = False) -> tf.data.Dataset:
        number = MANY_CANDIDATES if many else CANDIDATES

        def candidates(positions):
            attempts = [order.permuted(positions, self.num_examples, seed, attempt) for attempt in range(number)]
            return {"position": positions, "candidates": tf.stack(attempts, axis=1)}

        # One step at a time, because the call of an op costs more than shuffling one index.
        return shard.positions_of_steps().map(candidates).unbatch()

    def ordered(self, shard: HostShard) -> tf.data.Dataset:
        def candidate(position):
            return {"position": position, "candidates": tf.where(position < self.num_examples, position, -1)[None]}

        return shard.positions().map(candidate)

    @property
    def multi_label(self) -> bool:
        return self.all_labels is not None and self.all_labels.ndim == 2

    def read(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        # Padding (-1) reads the first example: any image that does not fail. An error would end the pipeline's fast path.
        row = tf.maximum(record, 0)
        return {"image": self.fetch(row), "label": self._label(record, row), "index": record}

    def read_many(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """`read` of several records, int64 `[n]`, with `fetch_many`: each entry is `[n]`."""
        assert self.fetch_many is not None
        rows = tf.maximum(records, 0)
        return {"image": self.fetch_many(rows), "label": self._label(records, rows), "index": records}

    def _label(self, record: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        """Of one record or several; `row` is the record, or 0 for padding."""
        if self.all_labels is None:
            return tf.fill(tf.shape(record), tf.constant(-1, tf.int32))
        padding = record < 0
        if self.multi_label:
            padding = padding[..., None]
        return tf.where(padding, -1, tf.gather(self._labels_tensor, row))

    @functools.cached_property
    def _labels_tensor(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(self.all_labels, tf.int32)

    def describe(self, index: int) -> str:
        return self.ids[index] if self.ids is not None else f"example {index} of {self.name}"

    def subset(self, indices: np.ndarray) -> RandomAccess:
        rows = np.asarray(indices, np.int64)
        many = self.fetch_many
        return dataclasses.replace(
            self,
            num_examples=len(indices),
            fetch=lambda index: self.fetch(tf.gather(rows, index)),
            fetch_many=None if many is None else lambda indices: many(tf.gather(rows, indices)),
            read_content=lambda index: self.content(rows[index]),
            pixels=None,  # they would be copied
            all_labels=None if self.all_labels is None else self.all_labels[indices],
            ids=[self.describe(int(index)) for index in indices],
        )


def of_arrays(
    name: str, images: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str] | None, ids: Sequence[str]
) -> RandomAccess:
    """A source of pixels in memory.

    Args:
      name: of the source.
      images: uint8 `[n, height, width, 3]`.
      labels: int32 `[n]`, or None.
      class_names: of the labels.
      ids: a name of each image.
    """

    @functools.cache
    def in_tensorflow() -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(images)

    return RandomAccess(
        name=name,
        num_examples=len(images),
        fetch=lambda index: tf.gather(in_tensorflow(), index),
        all_labels=labels,
        class_names=class_names,
        ids=ids,
        read_content=lambda index: images[index],
        pixels=images,
    )


def join(first: RandomAccess, second: RandomAccess) -> RandomAccess:
    """The examples of two sources with the same classes: those of the first, then those of the second."""
    sources = (first, second)
    labelled = first.class_names is not None or first.all_labels is not None
    return RandomAccess(
        name=f"{first.name} + {second.name}",
        num_examples=first.num_examples + second.num_examples,
        fetch=lambda index: tf.cond(
            index < first.num_examples, lambda: first.fetch(index), lambda: second.fetch(index - first.num_examples)
        ),
        read_content=lambda index: (
            first.content(index) if index < first.num_examples else second.content(index - first.num_examples)
        ),
        all_labels=np.concatenate([source.labels for source in sources]) if labelled else None,
        class_names=first.class_names,
        ids=[source.describe(index) for source in sources for index in range(source.num_examples)],
    )


def identity(source: Source) -> str:
    """A text that must be the same on all hosts: number of images, classes, and a digest of the labels in memory."""
    labels = source.all_labels if isinstance(source, RandomAccess) else None
    digest = "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
    classes = ", ".join(source.class_names or ["no labels"])
    return f"{source.num_examples} images, {classes}\n{digest}"
