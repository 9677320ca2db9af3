"""Any data set of TensorFlow Datasets (TFDS), by name, split expression and data_dir.

A split of up to `config.data.memory_mib` is read into memory, still encoded, and becomes random access. A larger one is
streamed. Its files come in an order drawn for each epoch, and its records pass through a shuffle buffer seeded for each epoch.
To resume within an epoch, the first records are skipped without decoding them. Each of several hosts streams a consecutive
piece of the epoch. A data set in TFDS's array_record format is neither: see `tfds_records`.
"""

from collections.abc import Iterator
import dataclasses
import functools

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data import order
from simclr_jax.data.order import HostShard
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.tfds_builder import feature_keys
from simclr_jax.data.sources.tfds_builder import label_of
from simclr_jax.data.sources.tfds_builder import prepared_builder
from simclr_jax.data.sources.tfds_records import TfdsRecords
from simclr_jax.data.sources.tfds_records import open_tfds_records
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.tensorflow import tfds


def open_tfds(data: ConfigDict, split: str) -> "RandomAccess | TfdsRecords | Stream":
    """The source of a TFDS split. Downloads and prepares the data set if it is not prepared yet.

    Args:
      data: `config.data`.
      split: "train" or "test".

    Raises:
      UserError: where the data set, the split or the image feature is missing, or the data cannot be streamed.
    """
    builder = prepared_builder(data.name, data.root)
    expression = data.train_split if split == "train" else data.test_split
    if expression is None:
        expression = next((name for name in ("test", "validation") if name in builder.info.splits), None)
        if expression is None:
            raise UserError(f"TFDS {data.name} has no split named test or validation: set --config.data.test_split.")
    try:
        num_examples = builder.info.splits[expression].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(f"TFDS {data.name} has no split {expression!r}: {error}") from error
    if num_examples == 0:
        raise UserError(f"the split {expression!r} of TFDS {data.name} is empty.")
    image_key, label_key = feature_keys(builder)
    labels = builder.info.features[label_key] if label_key else None
    multi_label = isinstance(labels, tfds.features.Sequence)
    class_names = (labels.feature if multi_label else labels).names if labels else None
    if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
        return open_tfds_records(f"TFDS {data.name}, split {expression}", builder, expression)
    stream = Stream(
        name=f"TFDS {data.name}, split {expression}",
        num_examples=num_examples,
        class_names=class_names,
        builder=builder,
        split=expression,
        image_key=image_key,
        label_key=label_key,
        shuffle_buffer=data.shuffle_buffer,
        multi_label=multi_label,
    )
    if stream.estimated_bytes() <= data.memory_mib * 2**20:
        return stream.subset(np.arange(num_examples))
    if multi_label:
        raise UserError(
            f"TFDS {data.name} has images of several classes, and is too large for config.data.memory_mib="
            f"{data.memory_mib}: such a data set must fit into memory."
        )
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"TFDS {data.name} is stored as {builder.info.file_format.value}, which cannot be streamed: prepare it as "
            "tfrecord or array_record, or raise --config.data.memory_mib to hold it in memory."
        )
    return stream


@dataclasses.dataclass(frozen=True)
class Stream:
    """A TFDS split that is read sequentially. Its records are examples: `{"image": encoded, "label", "index"}`.

    In training, `index` numbers the records in the order of one epoch; in evaluation it is the place in the split.
    """

    name: str
    num_examples: int
    class_names: list[str] | None
    builder: tfds.core.DatasetBuilder
    split: str
    image_key: str
    label_key: str | None
    shuffle_buffer: int
    multi_label: bool = False

    def estimated_bytes(self) -> float:
        """The size of the split, from that of the whole data set: TFDS does not know the size of a sub-split."""
        splits = self.builder.info.splits.values()
        total = sum(split.num_examples for split in splits)
        return self.num_examples / total * sum(split.num_bytes for split in splits)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if self.label_key is None:
            raise UserError(f"{self.name} has no labels.")
        return np.fromiter((r["label"] for r in self._in_order().as_numpy_iterator()), np.int32, self.num_examples)

    def shuffled(self, shard: HostShard, seed: int, many: bool = False) -> tf.data.Dataset:
        del many  # a stream has only the neighbour
        start, stop = shard.piece(self.num_examples)
        first, within = divmod(shard.start_step * shard.local_batch_size, stop - start)

        def epoch_records(epoch):
            records = self._epoch(epoch, seed, start, stop)
            # A record replaces its unreadable neighbour: the candidates of records a and b are (a, b) and (b, a).
            pairs = records.batch(2).map(
                lambda pair: {k: tf.stack([v, tf.reverse(v, [0])], axis=1) for k, v in pair.items()}, tf.data.AUTOTUNE
            )
            records = pairs.unbatch()
            return records.skip(tf.where(epoch == first, tf.constant(within, tf.int64), 0))

        epochs = tf.data.Dataset.counter(first, dtype=tf.int64)
        return tf.data.Dataset.zip({"position": shard.positions(), "candidates": epochs.flat_map(epoch_records)})

    def _epoch(self, epoch: tf.Tensor, seed: int, start: int, stop: int) -> tf.data.Dataset:
        """One host's records of one epoch, a pure function of (seed, epoch) and the number of hosts.

        The files, in the order of this epoch, form one sequence of records, of which the host reads `start` to `stop`. So only
        the files at the ends of its piece are opened by two hosts.
        """
        paths, skips, takes = self._files
        place = tf.range(len(takes), dtype=tf.int64) + epoch * len(takes)
        files = tf.map_fn(lambda position: order.permuted(position, len(takes), seed), place)
        paths, skips, takes = tf.gather(paths, files), tf.gather(skips, files), tf.gather(takes, files)
        ends = tf.cumsum(takes)
        low = tf.clip_by_value(start - (ends - takes), 0, takes)
        high = tf.clip_by_value(stop - (ends - takes), 0, takes)
        mine = tf.where(high > low)[:, 0]
        pieces = (tf.gather(paths, mine), tf.gather(skips + low, mine), tf.gather(high - low, mine))
        records = tf.data.Dataset.from_tensor_slices(pieces).interleave(
            lambda path, skip, take: tf.data.TFRecordDataset(path).skip(skip).take(take),
            cycle_length=16,
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        key = order.epoch_seed(seed, epoch)
        records = records.shuffle(self.shuffle_buffer, seed=key[0] * 1_000_003 + key[1], reshuffle_each_iteration=False)
        return records.enumerate(start).map(self._parse, tf.data.AUTOTUNE)

    @functools.cached_property
    def _files(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """For each file of the split: the path, how many records to skip, and how many belong to the split."""
        files = self.builder.info.splits[self.split].file_instructions
        with tf.init_scope():
            return (
                tf.constant([f.filename for f in files]),
                tf.constant([f.skip for f in files], tf.int64),
                tf.constant([f.take for f in files], tf.int64),
            )

    def _parse(self, index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        example = self.builder.info.features.deserialize_example(record, decoders=self._decoders)
        return self._record(index, example)

    def _record(self, index: tf.Tensor, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        label = example[self.label_key] if self.label_key else -1
        return {"image": example[self.image_key], "label": tf.cast(label, tf.int32), "index": tf.cast(index, tf.int64)}

    @property
    def _decoders(self) -> dict:
        return {self.image_key: tfds.decode.SkipDecoding()}

    def _in_order(self) -> tf.data.Dataset:
        # One file after the other, as in `ordered`. By default TFDS interleaves files.
        config = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = self.builder.as_dataset(
            split=self.split, decoders=self._decoders, shuffle_files=False, read_config=config
        )
        return dataset.enumerate().map(self._record, tf.data.AUTOTUNE)

    def encoded(self) -> Iterator[tuple[bytes, int]]:
        """The file and the label, -1 for none, of each image in order."""
        for record in self._in_order().as_numpy_iterator():
            yield record["image"], int(record["label"])

    def ordered(self, shard: HostShard) -> tf.data.Dataset:
        start, stop = shard.piece(self.num_examples)
        start = min(start + shard.start_step * shard.local_batch_size, stop)
        paths, skips, takes = self._files
        records = tf.data.Dataset.from_tensor_slices((paths, skips, takes))
        records = records.flat_map(lambda path, skip, take: tf.data.TFRecordDataset(path).skip(skip).take(take))
        records = records.skip(start).take(stop - start).enumerate(start).map(self._parse, tf.data.AUTOTUNE)
        # Padding has an image that can be decoded. An error would end the pipeline's fast path.
        pixel = tf.io.encode_png(tf.zeros([1, 1, 3], tf.uint8))
        padding = {"image": pixel, "label": tf.constant(-1), "index": tf.constant(-1, tf.int64)}
        records = records.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
        records = records.map(lambda record: {key: value[None] for key, value in record.items()})
        return tf.data.Dataset.zip({"position": shard.positions(), "candidates": records})

    def read(self, record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return record

    def describe(self, index: int) -> str:
        return f"record {index} of {self.name}"

    def subset(self, indices: np.ndarray) -> RandomAccess:
        """These examples in memory, still encoded. Reads the whole split once."""
        wanted = set(indices.tolist())
        config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
        dataset = self.builder.as_dataset(
            split=self.split, decoders=self._decoders, shuffle_files=False, read_config=config
        )
        kept = {}
        for index, example in enumerate(dataset.as_numpy_iterator()):
            if index in wanted:
                label = label_of(example, self.label_key, self.class_names, self.multi_label)
                kept[index] = (example[self.image_key], label, example["tfds_id"].decode())
        images, labels, ids = zip(*(kept[index] for index in indices.tolist()), strict=True)
        images = tf.constant(images, tf.string)
        return RandomAccess(
            name=self.name,
            num_examples=len(indices),
            fetch=lambda index: tf.gather(images, index),
            all_labels=np.array(labels, np.int32) if self.label_key else None,
            class_names=self.class_names,
            ids=ids,
        )
