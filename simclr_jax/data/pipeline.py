"""Batches of this host as NumPy arrays, from a source, an order and an augmentation.

Training and evaluation share one path. A record of a source is read, decoded and cropped; its crops are resized and become
views; views become batches. `Stages` holds what differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import math
import threading
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import family
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_random
from simclr_jax.augment.image_files import DEFAULT_DECODING
from simclr_jax.augment.image_files import Decoding
from simclr_jax.data import read_ahead
from simclr_jax.data import without_tensorflow
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.open_records import Stages
from simclr_jax.data.open_records import first_index
from simclr_jax.data.open_records import open_first
from simclr_jax.data.open_records import open_first_readable
from simclr_jax.data.order import HostShard
from simclr_jax.data.sources.base import Source
from simclr_jax.runtime import sharding
from simclr_jax.runtime import tensorflow
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.tensorflow import without_autograph


def local_shard(mesh: Mesh, batch_size: int, start_step: int = 0, num_steps: int | None = None) -> HostShard:
    """The part of the global sequence that this process reads for its devices in a mesh.

    Args:
      mesh: over which batches are split; of the devices of all processes, or of this one alone.
      batch_size: global.
      start_step: the first step.
      num_steps: how many; None for endless.
    """
    processes = sorted({device.process_index for device in mesh.devices.flat})
    return HostShard(
        batch_size,
        start_step,
        num_steps,
        process_index=processes.index(jax.process_index()),
        process_count=len(processes),
        rows=sharding.local_rows(mesh, batch_size),
    )


def train_batches(
    source: Source,
    augment: ConfigDict,
    *,
    num_views: int,
    size: int,
    shard: HostShard,
    seed: int,
    bad_images: BadImages,
    decoding: Decoding = DEFAULT_DECODING,
) -> Iterator[dict[str, np.ndarray]]:
    """An endless stream of this host's training batches, from step `shard.start_step` on.

    The order is a pure function of (seed, position), a view of (seed, position, view); see `data.order`.

    Args:
      source: the examples.
      augment: `config.augment`, or its crop and flip fields only. Where its `where` is "device", views are only cropped and
        resized here.
      num_views: independent views of each image; 2 for contrastive learning.
      size: side of the views in pixels.
      shard: which part of the global sequence this host reads.
      seed: of order and augmentation.
      bad_images: checks every batch.
      decoding: how files are decoded.

    Yields:
      `views` uint8 `[local batch, num_views, size, size, 3]`, `label` int32 `[local batch]` (-1 for none) and `index`
      int64 `[local batch]`, the number of the example in the source.

    Raises:
      UserError: from `bad_images`.
    """

    def crop(image: tf.Tensor, position: tf.Tensor) -> list[tf.Tensor]:
        reduce_to = size if decoding.reduced_decode else None
        return tf_crops.random_crops(decoding.completed(image), augment, seed, position, num_views, reduce_to)

    on_host = augment.get("where", "host") == "host"
    stages = Stages(
        records=lambda shard, many: source.shuffled(shard, seed, many),
        read=source.read,
        read_many=read_ahead.function_of(source),
        crop=crop,
        size=size,
        make_views=functools.partial(_augmented, augment=augment, seed=seed) if on_host else _without_augmentation,
    )
    for batch in _batches(stages, shard):
        bad_images.check(batch.pop("wanted"), batch["index"], replaced=True)
        yield batch


def eval_batches(
    source: Source,
    *,
    size: int,
    crop: float,
    shard: HostShard,
    bad_images: BadImages,
    decoding: Decoding = DEFAULT_DECODING,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of the source exactly once, in the source's order, without augmentation.

    Args:
      source: the examples.
      size: side of the images in pixels.
      crop: side of the central square that is resized, as a fraction of the image's shorter side.
      shard: which part this host reads: `shard.num_steps` global batches. Positions after the last example are padding.
      bad_images: checks every batch.
      decoding: how files are decoded.

    Yields:
      `image` uint8 `[local batch, size, size, 3]`, `label` int32, `index` and `wanted` int64 and `mask` bool `[local batch]`.
      Where the mask is false (padding, and images that cannot be read), label and index are -1 and the image is any image.
      `wanted` is -1 for padding only.

    Raises:
      UserError: from `bad_images`.
    """
    if not tensorflow.is_installed():
        yield from without_tensorflow.eval_batches(
            source, size=size, crop=crop, shard=shard, bad_images=bad_images, decoding=decoding
        )
        return
    reduce_to = size if decoding.reduced_decode else None
    stages = Stages(
        records=lambda shard, many: source.ordered(shard),
        read=source.read,
        read_many=read_ahead.function_of(source),
        crop=lambda image, position: [tf_crops.central_crop(decoding.completed(image), crop, reduce_to)],
        size=size,
        make_views=_without_augmentation,
    )
    for batch in _batches(stages, shard):
        bad_images.check(batch["wanted"], batch["index"], replaced=False)
        yield {
            "image": batch["views"][:, 0],
            "label": batch["label"],
            "index": batch["index"],
            "wanted": batch["wanted"],
            "mask": batch["index"] >= 0,
        }


def look_up(source: Source, indices: np.ndarray, data: ConfigDict) -> np.ndarray:
    """Single images with the preprocessing of an evaluation: indices, int `[...]`, to uint8 `[..., size, size, 3]`.

    Images that cannot be read are black.
    """
    wanted, where = np.unique(indices, return_inverse=True)
    batches = eval_batches(
        source.subset(wanted),
        size=data.image_size,
        crop=data.eval_crop,
        shard=HostShard(len(wanted), num_steps=1),
        bad_images=BadImages(source, 1.0),
        decoding=Decoding.of(data),
    )
    return next(batches)["image"][where.reshape(np.shape(indices))]


# --- From records to batches ---------------------------------------------------------------------------------------

# How many images one call opens, and how many pixels one call augments: enough that calls cost little, few enough to keep all
# cores busy.
GROUP = 8
CHUNK_PIXELS = 2**18


def _augmented(crops: tf.Tensor, positions: tf.Tensor, augment: ConfigDict, seed: int) -> tf.Tensor:
    _, num_views, size, _, _ = crops.shape
    draws = [tf_random.uniforms(seed, positions, view, family.NUM_DRAWS) for view in range(num_views)]
    if augment.get("one_branch", False):
        draws[1:] = [tf.fill(tf.shape(draw), family.NEVER) for draw in draws[1:]]
    from simclr_jax.augment import tf_ops

    views = tf_ops.random_views(
        tf.reshape(crops, [-1, size, size, 3]),
        tf.reshape(tf.stack(draws, axis=1), [-1, family.NUM_DRAWS]),
        augment,
    )
    return tf.reshape(views, [-1, num_views, size, size, 3])


def _without_augmentation(crops: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    from simclr_jax.augment import tf_ops

    del positions
    return tf_ops.to_uint8(crops)


def _batches(stages: Stages, shard: HostShard) -> Iterator[dict[str, np.ndarray]]:
    """This host's batches: `views`, `label`, `index` (-1 for padding or unreadable) and `wanted`, the index asked for.

    Begins on the fast path, which expects every image to be readable. After the first unreadable image it continues, at the
    step that failed, on the careful path. Nothing is lost, because a data set can start at any step.
    """
    step = shard.start_step
    # Not global names: a generator can outlive the globals of its module, at exit.
    unreadable, drop = tf.errors.OpError, _drop_in_background
    for open_record in (open_first, open_first_readable):
        num_steps = None if shard.num_steps is None else shard.num_steps - (step - shard.start_step)
        rest = dataclasses.replace(shard, start_step=step, num_steps=num_steps)
        iterator = without_autograph(_dataset)(stages, rest, open_record).as_numpy_iterator()
        try:
            for batch in iterator:
                yield batch
                step += 1
            return
        except unreadable:
            if open_record is open_first_readable:
                raise
        finally:
            last_reference = [iterator]
            del iterator
            drop(last_reference)


def _drop_in_background(last_reference: list[Any]) -> None:
    """Empties a list without waiting for it.

    The destructor of an iterator waits until its threads have decoded and augmented what they have begun, which may take
    many seconds. A daemon thread waits instead, and does not keep the process from ending.
    """
    threading.Thread(target=last_reference.clear, name="end of input", daemon=True).start()


def _dataset(stages: Stages, shard: HostShard, open_record: Callable) -> tf.data.Dataset:
    """The batches of `_batches`: records, then groups of crops, then chunks of views, then batches."""
    batch_size, pixels = shard.local_batch_size, stages.size**2
    group_size = math.gcd(batch_size, max(1, min(GROUP, CHUNK_PIXELS // pixels // 2)))
    groups_per_chunk = max(1, min(CHUNK_PIXELS // pixels, batch_size) // group_size)

    # A function of TensorFlow is traced once, however often it is called. Its branches take a tenth of a second to trace.
    @tf.function(autograph=False)
    def open_one(record):
        crops, label, index = open_record(record, stages)
        return {
            "crops": tf.stack([tf_crops.resize(crop, stages.size) for crop in crops]),
            "label": label,
            "index": index,
        }

    def open_group(records):
        # One call for several images, because the call of a data set's function costs as much as opening a small image.
        examples = [
            open_one(tf.nest.map_structure(lambda values, number=number: values[number], records))
            for number in range(group_size)
        ]
        examples = tf.nest.map_structure(lambda *values: tf.stack(values), *examples)
        return examples | {"position": records["position"], "wanted": first_index(records["candidates"])}

    def finish_chunk(groups):
        chunk = {key: tf.reshape(value, [-1, *value.shape[2:]]) for key, value in groups.items()}
        views = stages.make_views(chunk.pop("crops"), chunk.pop("position"))
        return chunk | {"views": views}

    in_order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    careful = open_record is open_first_readable
    read_many = None if careful else stages.read_many
    groups = read_ahead.groups(stages.records(shard, careful), group_size, batch_size, read_many)
    groups = groups.map(open_group, **in_order)
    chunks = groups.batch(groups_per_chunk).map(finish_chunk, **in_order)
    return chunks.rebatch(batch_size, drop_remainder=True).prefetch(2)
