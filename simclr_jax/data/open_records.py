"""Open the image of a record: the first of its candidates, or the first one that can be read."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

from simclr_jax.data.order import HostShard
from simclr_jax.runtime.tensorflow import tf


@dataclasses.dataclass(frozen=True)
class Stages:
    """The stages of an image on its way from a source to a batch. Only `read` and `crop` may fail."""

    # `Source.shuffled` or `Source.ordered` of a shard, and whether images were unreadable, so that many candidates are needed
    records: Callable[[HostShard, bool], tf.data.Dataset]
    read: Callable[..., dict[str, tf.Tensor]]  # `Source.read`
    read_many: Callable[..., dict[str, tf.Tensor]] | None  # `RandomAccess.read_many`, if it is faster
    crop: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]]  # image, position -> uint8 crops, one for each view
    size: int  # to which crops are resized
    # float32 crops `[n, views, size, size, 3]`, positions `[n]` -> uint8 views of the same shape
    make_views: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def first_index(candidates: tf.Tensor | dict[str, tf.Tensor]) -> tf.Tensor:
    """The index of the first candidate, `[n]`, of candidates `[n, number]`: indices, or examples that have one."""
    return (candidates["index"] if isinstance(candidates, dict) else candidates)[:, 0]


def _open(candidate, position: tf.Tensor, stages: Stages) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
    """Crops, label and index of a candidate. Fails where it cannot be read."""
    return _crop(stages.read(candidate), position, stages)


def _crop(example, position: tf.Tensor, stages: Stages) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
    return tuple(stages.crop(example["image"], position)), example["label"], example["index"]


def open_first(record, stages: Stages) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
    """`_open` of the first candidate, which may have been read already."""
    if "first" in record:
        return _crop(record["first"], record["position"], stages)
    first = tf.nest.map_structure(lambda candidates: candidates[0], record["candidates"])
    return _open(first, record["position"], stages)


def open_first_readable(record, stages: Stages) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
    """`_open` of the first readable candidate. Where there is none: blank crops, with label and index -1."""
    # An error while reading or decoding drops a candidate, so the first one left is the one to use. Unlike `ignore_errors` on
    # the whole stream, this keeps every position. Only what can fail is inside, since a data set inside a data set costs time
    # for each of its ops.
    candidates = tf.data.Dataset.from_tensor_slices(record["candidates"])
    readable = candidates.map(lambda one: _open(one, record["position"], stages)).ignore_errors(log_warning=False)
    crops, label, _ = readable.element_spec
    no_crops = tuple(tf.zeros([1, 1, 3], tf.uint8) for _ in crops)
    no_label = tf.fill(label.shape, tf.constant(-1, tf.int32))
    blank = no_crops, no_label, tf.constant(-1, tf.int64)
    return readable.concatenate(tf.data.Dataset.from_tensors(blank)).take(1).get_single_element()
