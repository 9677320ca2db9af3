"""A source + an order + an augmentation = this host's batches, as NumPy arrays."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import logging
import math

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import family
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_ops
from simclr_jax.augment import tf_random
from simclr_jax.data import order
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding
from simclr_jax.runtime.tensorflow import tf

log = logging.getLogger("simclr_jax")


def local_share(mesh: Mesh, batch_size: int, start_step: int = 0, num_steps: int | None = None) -> order.Share:
    """The part of the global sequence that this process's devices in a mesh are to get."""
    return order.Share(
        batch_size,
        start_step,
        num_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        rows=sharding.local_rows(mesh, batch_size),
    )


class BadImages:
    """Counts the images that could not be read, names each once, and ends the run when they are too many.

    Args:
      source: where the images come from.
      max_fraction: the share of the source's examples that may be unreadable.
    """

    def __init__(self, source: Source, max_fraction: float):
        self._source = source
        self._max_fraction = max_fraction
        self._seen: set[int] = set()

    @property
    def count(self) -> int:
        """Distinct unreadable images so far."""
        return len(self._seen)

    def check(self, wanted: np.ndarray, used: np.ndarray, *, replaced: bool) -> None:
        """Looks at a batch: `wanted` and `used` are the indices asked for and read, int64 `[batch]`, -1 for none."""
        for index in wanted[(wanted != used) & (wanted >= 0)]:
            if int(index) not in self._seen:
                self._seen.add(int(index))
                log.warning("Cannot read the image %s; it is skipped.", self._source.describe(int(index)))
        if self.count > self._max_fraction * self._source.num_examples:
            raise UserError(
                f"{self.count} of the {self._source.num_examples} images of {self._source.name} cannot be read, more than "
                f"config.data.max_bad_fraction={self._max_fraction:g} allows. The last one: "
                f"{self._source.describe(int(wanted[wanted != used][-1]))}"
            )
        if replaced and np.any(used < 0):
            name = self._source.describe(int(wanted[used < 0][0]))
            raise UserError(f"cannot read the image {name}, nor any that was to replace it, in {self._source.name}.")


# Images that are opened by one call, and pixels that are augmented by one: enough that calls cost little, few enough that
# all cores have something to do.
GROUP = 8
CHUNK_PIXELS = 2**18


def train_batches(
    source: Source,
    augment: ConfigDict,
    *,
    num_views: int,
    size: int,
    share: order.Share,
    seed: int,
    bad_images: BadImages,
) -> Iterator[dict[str, np.ndarray]]:
    """An endless stream of this host's training batches, from step `share.start_step` on.

    The order is a pure function of (seed, position), a view of (seed, position, view); see `data.order`.

    Args:
      source: the examples.
      augment: `config.augment`, or its crop and flip fields only. Where its `where` is "device", views are only cropped and
        resized here.
      num_views: independent views of each image; 2 for contrastive learning.
      size: side of the views in pixels.
      share: which part of the global sequence this host reads.
      seed: of order and augmentation.
      bad_images: is told of every batch.

    Yields:
      `views` uint8 `[local batch, num_views, size, size, 3]`, `label` int32 `[local batch]` (-1 for none) and `index`
      int64 `[local batch]`, the number of the example in the source.
    """
    on_host = augment.get("where", "host") == "host"

    def open_views(image, position):
        return tf_crops.random_crops(image, augment, seed, position, num_views)

    def finish(crops, positions):
        if not on_host:
            return tf_ops.to_uint8(crops)
        draws = [tf_random.uniforms(seed, positions, view, family.NUM_DRAWS) for view in range(num_views)]
        if augment.get("one_branch", False):
            draws[1:] = [tf.fill(tf.shape(draw), family.NEVER) for draw in draws[1:]]
        views = tf_ops.random_views(
            tf.reshape(crops, [-1, size, size, 3]),
            tf.reshape(tf.stack(draws, axis=1), [-1, family.NUM_DRAWS]),
            augment,
        )
        return tf.reshape(views, [-1, num_views, size, size, 3])

    def records(share):
        return source.shuffled(share, seed)

    for batch in _batches(records, source, open_views, finish, size, share):
        bad_images.check(batch.pop("wanted"), batch["index"], replaced=True)
        yield batch


def eval_batches(
    source: Source,
    *,
    size: int,
    crop: float,
    share: order.Share,
    bad_images: BadImages,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of the source exactly once, in its order, without augmentation.

    `share.num_steps` global batches; what lies behind the last example is padding.

    Yields:
      `image` uint8 `[local batch, size, size, 3]`, `label` int32, `index` int64 and `mask` bool `[local batch]`, false
      for padding and for images that cannot be read.
    """

    def open_views(image, position):
        del position
        return [tf_crops.central_crop(image, crop)]

    def finish(crops, positions):
        del positions
        return tf_ops.to_uint8(crops)

    for batch in _batches(source.ordered, source, open_views, finish, size, share):
        bad_images.check(batch.pop("wanted"), batch["index"], replaced=False)
        yield {
            "image": batch["views"][:, 0],
            "label": batch["label"],
            "index": batch["index"],
            "mask": batch["index"] >= 0,
        }


def look_up(source: Source, indices: np.ndarray, data: ConfigDict) -> np.ndarray:
    """Single images as an evaluation sees them: their numbers, int `[...]`, to uint8 `[..., size, size, 3]`.

    What cannot be read is black.
    """
    wanted, where = np.unique(indices, return_inverse=True)
    batches = eval_batches(
        source.subset(wanted),
        size=data.image_size,
        crop=data.eval_crop,
        share=order.Share(len(wanted), num_steps=1),
        bad_images=BadImages(source, 1.0),
    )
    return next(batches)["image"][where.reshape(np.shape(indices))]


def _batches(
    records: Callable[[order.Share], tf.data.Dataset],
    source: Source,
    open_views: Callable,
    finish: Callable,
    size: int,
    share: order.Share,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's batches, as NumPy arrays: `views`, `label`, `index` (-1: unreadable) and `wanted`, the index asked for.

    At first as if every image could be read, which is faster. The first that cannot be is no loss, since any step can be
    begun at: from there on it goes more carefully.

    Args:
      records: the source's, for a share.
      open_views: (image, position) to uint8 crops of any shape, one for each view. It may fail.
      finish: (resized crops float32 `[n, views, size, size, 3]`, positions `[n]`) to uint8. It may not.
    """
    step = share.start_step
    for open_record in (_open_first, _open_readable):
        left = None if share.num_steps is None else share.num_steps - (step - share.start_step)
        rest = dataclasses.replace(share, start_step=step, num_steps=left)
        opened = _open(records(rest), open_record, source, open_views, size, share.local_batch_size)
        try:
            for batch in _finish(opened, finish, size, share.local_batch_size):
                yield batch
                step += 1
            return
        except tf.errors.OpError:
            if open_record is _open_readable:
                raise


def _open(
    records: tf.data.Dataset, open_record: Callable, source: Source, open_views: Callable, size: int, batch_size: int
) -> tf.data.Dataset:
    """Groups of opened and resized images. A call of a data set's function costs as much as opening a small image."""

    def group(records):
        examples = []
        for number in range(group_size):
            record = tf.nest.map_structure(lambda values, number=number: values[number], records)
            crops, label, index = open_record(record, source, open_views)
            crops = tf.stack([tf_crops.resize(crop, size) for crop in crops])
            examples.append({"crops": crops, "label": label, "index": index})
        examples = tf.nest.map_structure(lambda *values: tf.stack(values), *examples)
        return examples | {"position": records["position"], "wanted": _first(records["candidates"])}

    group_size = math.gcd(batch_size, max(1, min(GROUP, CHUNK_PIXELS // size**2 // 2)))
    records = records.batch(group_size, drop_remainder=True)
    return records.map(group, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _first(candidates) -> tf.Tensor:
    """The index that is asked for first, `[n]`, of candidates `[n, number]`: indices, or examples that have one."""
    return (candidates["index"] if isinstance(candidates, dict) else candidates)[:, 0]


def _open_first(record, source: Source, open_views: Callable):
    """Crops, label and index of the first candidate. Fails where it cannot be read."""
    example = source.read(tf.nest.map_structure(lambda candidates: candidates[0], record["candidates"]))
    return open_views(example["image"], record["position"]), example["label"], example["index"]


def _open_readable(record, source: Source, open_views: Callable):
    """Crops, label and index of the first readable candidate; blank, with label and index -1, where none is."""

    def load(candidate):
        example = source.read(candidate)
        return tuple(open_views(example["image"], record["position"])), example["label"], example["index"]

    # An error while reading or decoding drops a candidate; what is left starts with the one to use. Unlike
    # `ignore_errors` on the whole stream, this keeps every position. Only what can fail is inside, since a data set in a
    # data set costs time by the number of its ops.
    usable = tf.data.Dataset.from_tensor_slices(record["candidates"]).map(load).ignore_errors(log_warning=False)
    no_crops = tuple(tf.zeros([1, 1, 3], tf.uint8) for _ in usable.element_spec[0])
    no_label = tf.fill(usable.element_spec[1].shape, tf.constant(-1, tf.int32))
    blank = no_crops, no_label, tf.constant(-1, tf.int64)
    return usable.concatenate(tf.data.Dataset.from_tensors(blank)).take(1).get_single_element()


def _finish(opened: tf.data.Dataset, finish: Callable, size: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of opened images, augmented a chunk at a time."""

    def augmented(chunk):
        # Groups of groups become one.
        chunk = {key: tf.reshape(value, [-1, *value.shape[2:]]) for key, value in chunk.items()}
        views = finish(chunk.pop("crops"), chunk.pop("position"))
        return chunk | {"views": views}

    group_size = opened.element_spec["label"].shape[0]
    chunk_size = min(CHUNK_PIXELS // size**2, batch_size)
    chunks = opened.batch(max(1, chunk_size // group_size))
    chunks = chunks.map(augmented, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return chunks.rebatch(batch_size, drop_remainder=True).prefetch(2).as_numpy_iterator()
