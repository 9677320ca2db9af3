"""What a source of images is: one small interface, and its form with random access.

A source hands out *records*: for every position of a sequence a few candidates, of which the pipeline takes the first
that can be read. So an unreadable image is replaced, always by the same other one, and no position is ever lost.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import hashlib
from typing import Protocol

import numpy as np

from simclr_jax.data import order
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf

# How many examples are tried for one position before the run gives up.
CANDIDATES = 4


class Source(Protocol):
    """Examples with an image and perhaps a label, numbered 0 to n - 1."""

    name: str  # for messages: "cifar10, split train"
    num_examples: int
    class_names: Sequence[str] | None  # None: no labels
    multi_label: bool  # whether an example may be of several classes

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]`, or `[n, classes]`; reads the whole source where they are not at hand."""

    def shuffled(self, share: order.Share, seed: int) -> tf.data.Dataset:
        """One host's endless training sequence: `{"position": int64, "candidates": records}`, candidates stacked."""

    def ordered(self, share: order.Share) -> tf.data.Dataset:
        """Examples 0 to n - 1, each by one host, one candidate each, from `share.start_step` on; the rest, up to
        `share.num_steps` more steps, cannot be read."""

    def read(self, record) -> dict[str, tf.Tensor]:
        """A candidate's `image` (encoded bytes, or uint8 pixels), `label` (int32, -1 for none) and `index` (int64).

        An error while reading makes the pipeline take the next candidate.
        """

    def describe(self, index: int) -> str:
        """What a user would call this example: a path, or a name in the data set."""

    def subset(self, indices: np.ndarray) -> "RandomAccess":
        """Only these examples, renumbered from 0."""


@dataclasses.dataclass(frozen=True)
class RandomAccess:
    """A source that reads any example at once: arrays in memory, files in a folder. Its records are indices.

    Every epoch is a perfect permutation, and any position is found without touching the ones before it.

    Attributes:
      fetch: int64 scalar index to the image (encoded bytes or uint8 pixels).
      all_labels: int32 `[n]`; or None; or where an example may be of several classes, `[n, classes]`: 1 for those it is of, 0
        for the others, -1 where it does not count.
      ids: what each example is called, or None where its number says it all.
    """

    name: str
    num_examples: int
    fetch: Callable[[tf.Tensor], tf.Tensor]
    all_labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    ids: Sequence[str] | None = None

    @property
    def labels(self) -> np.ndarray:
        if self.all_labels is None:
            raise UserError(f"{self.name} has no labels.")
        return self.all_labels

    def shuffled(self, share: order.Share, seed: int) -> tf.data.Dataset:
        def candidates(positions):
            attempts = [order.permuted(positions, self.num_examples, seed, attempt) for attempt in range(CANDIDATES)]
            return {"position": positions, "candidates": tf.stack(attempts, axis=1)}

        # A step at a time: the call of an op costs more than shuffling one index.
        return share.positions_of_steps().map(candidates).unbatch()

    def ordered(self, share: order.Share) -> tf.data.Dataset:
        def candidate(position):
            return {"position": position, "candidates": tf.where(position < self.num_examples, position, -1)[None]}

        return share.positions().map(candidate)

    @property
    def multi_label(self) -> bool:
        return self.all_labels is not None and self.all_labels.ndim == 2

    def read(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        label = tf.constant(-1, tf.int32) if self.all_labels is None else tf.gather(self._labels_tensor, record)
        return {"image": self.fetch(record), "label": label, "index": record}

    @functools.cached_property
    def _labels_tensor(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(self.all_labels, tf.int32)

    def describe(self, index: int) -> str:
        return self.ids[index] if self.ids is not None else f"example {index} of {self.name}"

    def subset(self, indices: np.ndarray) -> "RandomAccess":
        rows = tf.constant(indices, tf.int64)
        return dataclasses.replace(
            self,
            num_examples=len(indices),
            fetch=lambda index: self.fetch(tf.gather(rows, index)),
            all_labels=None if self.all_labels is None else self.all_labels[indices],
            ids=[self.describe(int(index)) for index in indices],
        )


def join(first: RandomAccess, second: RandomAccess) -> RandomAccess:
    """The examples of two sources of the same classes, one behind the other."""
    sources = (first, second)
    return dataclasses.replace(
        first,
        name=f"{first.name} + {second.name}",
        num_examples=first.num_examples + second.num_examples,
        fetch=lambda index: tf.cond(
            index < first.num_examples, lambda: first.fetch(index), lambda: second.fetch(index - first.num_examples)
        ),
        all_labels=None if first.all_labels is None else np.concatenate([source.all_labels for source in sources]),
        ids=[source.describe(index) for source in sources for index in range(source.num_examples)],
    )


def identity(source: Source) -> str:
    """What a source on one host has to have in common with that on another."""
    labels = source.all_labels if isinstance(source, RandomAccess) else None
    digest = "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
    classes = ", ".join(source.class_names or ["no labels"])
    return f"{source.num_examples} images, {classes}\n{digest}"


def check_same_classes(train: Source, test: Source) -> None:
    """Refuses a test split whose classes are not the training split's."""
    if train.class_names is None or test.class_names is None:
        unlabelled = train if train.class_names is None else test
        raise UserError(f"{unlabelled.name} has no labels, which this evaluation needs.")
    missing = sorted(set(train.class_names) - set(test.class_names))
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if missing:
        raise UserError(f"{test.name} lacks the class{'es' * (len(missing) > 1)} {', '.join(missing)} of {train.name}.")
    if unknown:
        raise UserError(
            f"{test.name} has the class{'es' * (len(unknown) > 1)} {', '.join(unknown)}, unknown to {train.name}."
        )
