"""A source + an order + an augmentation = this host's batches, as NumPy arrays."""

from collections.abc import Callable
from collections.abc import Iterator
import logging

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np
import tensorflow as tf

from simclr_jax import parallel
from simclr_jax.data import augment as augmentation
from simclr_jax.data import order
from simclr_jax.data.sources import Source
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")


def local_share(mesh: Mesh, batch_size: int, start_step: int = 0, num_steps: int | None = None) -> order.Share:
    """The part of the global sequence that this process's devices in a mesh are to get."""
    return order.Share(
        batch_size,
        start_step,
        num_steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        rows=parallel.local_rows(mesh, batch_size),
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


def _with_views(records: tf.data.Dataset, source: Source, open_view: Callable, finish_view: Callable, num_views: int):
    """Opens the first readable candidate of every record and makes its views; blank, with index -1, where none is.

    `open_view(image, position, view)` may fail; `finish_view(crop, position, view)` may not.
    """

    def element(record):
        position, candidates = record["position"], record["candidates"]

        def load(candidate):
            example = source.read(candidate)
            crops = [open_view(example["image"], position, view) for view in range(num_views)]
            return tuple(crops), example["label"], example["index"]

        # An error while reading or decoding drops a candidate; what is left starts with the one to use. Unlike
        # `ignore_errors` on the whole stream, this keeps every position. Only what can fail is inside, since a data
        # set in a data set costs time by the number of its ops.
        no_crop = tf.zeros([1, 1, 3], tf.uint8)
        blank = (no_crop,) * num_views, tf.constant(-1, tf.int32), tf.constant(-1, tf.int64)
        usable = tf.data.Dataset.from_tensor_slices(candidates).map(load).ignore_errors(log_warning=False)
        usable = usable.concatenate(tf.data.Dataset.from_tensors(blank))
        crops, label, index = usable.take(1).get_single_element()
        views = [finish_view(crop, position, view) for view, crop in enumerate(crops)]
        wanted = (candidates["index"] if isinstance(candidates, dict) else candidates)[0]
        return {"views": tf.stack(views), "label": label, "index": index, "wanted": wanted}

    return records.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


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
      augment: `config.augment`, or its crop and flip fields only.
      num_views: independent views of each image; 2 for contrastive learning.
      size: side of the views in pixels.
      share: which part of the global sequence this host reads.
      seed: of order and augmentation.
      bad_images: is told of every batch.

    Yields:
      `views` uint8 `[local batch, num_views, size, size, 3]`, `label` int32 `[local batch]` (-1 for none) and `index`
      int64 `[local batch]`, the number of the example in the source.
    """

    def open_view(image, position, view):
        return augmentation.random_crop(image, order.view_seeds(seed, position, view)[0], augment)

    def finish_view(crop, position, view):
        return augmentation.random_view(crop, order.view_seeds(seed, position, view)[1], augment, size)

    batches = _with_views(source.shuffled(share, seed), source, open_view, finish_view, num_views)
    batches = batches.batch(share.local_batch_size, drop_remainder=True).prefetch(2)
    for batch in batches.as_numpy_iterator():
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

    def open_view(image, position, view):
        del position, view
        return augmentation.central_crop(image, crop)

    def finish_view(pixels, position, view):
        del position, view
        return augmentation.to_uint8(augmentation.resize(pixels, size))

    batches = _with_views(source.ordered(share), source, open_view, finish_view, 1)
    batches = batches.batch(share.local_batch_size, drop_remainder=True).prefetch(2)
    for batch in batches.as_numpy_iterator():
        bad_images.check(batch.pop("wanted"), batch["index"], replaced=False)
        yield {
            "image": batch["views"][:, 0],
            "label": batch["label"],
            "index": batch["index"],
            "mask": batch["index"] >= 0,
        }
