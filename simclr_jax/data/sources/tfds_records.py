"""A TFDS split in its array_record format: any example is read alone, from a disk or a bucket, whatever the size of the split.

So the order is a perfect permutation, without a shuffle buffer, and a run resumes at any step on any number of hosts. Labels
are in the records; they are read with the images.
"""

import bisect
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import dataclasses
import functools
import os
from typing import Any

import numpy as np

from simclr_jax.data.records import layout
from simclr_jax.data.records.files import map_of
from simclr_jax.data.records.files import most_open_files
from simclr_jax.data.records.files import open_file
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.records import fetchers
from simclr_jax.data.sources.tfds_builder import feature_keys
from simclr_jax.data.sources.tfds_builder import label_of
from simclr_jax.errors import UserError
from simclr_jax.runtime import extras
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.tensorflow import tfds
from simclr_jax.runtime.tensorflow import without_autograph

# Files whose table of contents is read at once.
THREADS = 32


@dataclasses.dataclass(frozen=True)
class TfdsRecords(RandomAccess):
    """The examples of a split.

    Attributes:
      fetch_many: gives serialised examples.
      parse: a serialised example to its features, the image still encoded.
      image_key, label_key: their names.
      reader: knows the file of each example.
    """

    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]] = dataclasses.field(kw_only=True)
    image_key: str = dataclasses.field(kw_only=True)
    label_key: str | None = dataclasses.field(kw_only=True)
    has_several_labels: bool = dataclasses.field(kw_only=True)
    reader: "Reader" = dataclasses.field(kw_only=True)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if self.label_key is None:
            raise UserError(f"{self.name} has no labels.")
        return self._labels_of(np.arange(self.num_examples))

    @property
    def multi_label(self) -> bool:
        return self.has_several_labels

    def read(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        return {key: value[0] for key, value in self.read_many(record[None]).items()}

    def read_many(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        assert self.fetch_many is not None
        raw = self.fetch_many(tf.maximum(records, 0))  # as `RandomAccess.read`
        examples = [self.parse(raw[number]) for number in range(records.shape[0])]
        labels = [tf.cast(example[self.label_key], tf.int32) if self.label_key else -1 for example in examples]
        images = tf.stack([example[self.image_key] for example in examples])
        return {"image": images, "label": tf.where(records < 0, -1, tf.stack(labels)), "index": records}

    def describe(self, index: int) -> str:
        return self.reader.name(index)

    def subset(self, indices: np.ndarray) -> RandomAccess:
        """These examples, with their labels: reads them."""
        rows = tf.constant(indices, tf.int64)
        return RandomAccess(
            name=self.name,
            num_examples=len(indices),
            fetch=lambda index: self.fetch(tf.gather(rows, index)),
            all_labels=self._labels_of(indices) if self.label_key else None,
            class_names=self.class_names,
            ids=[self.describe(int(index)) for index in indices],
        )

    def encoded(self) -> Iterator[tuple[bytes, int]]:
        """The file and the label, -1 for none, of each image in order."""
        for example in self._examples(np.arange(self.num_examples), without_image=False):
            yield example[self.image_key], int(example[self.label_key]) if self.label_key else -1

    def _labels_of(self, indices: np.ndarray) -> np.ndarray:
        names = list(self.class_names or [])
        examples = self._examples(indices, without_image=True)
        labels = [label_of(example, self.label_key, names, self.multi_label) for example in examples]
        return np.array(labels, np.int32)

    def _examples(self, indices: np.ndarray, without_image: bool) -> Iterator[dict[str, Any]]:
        fetch_many = self.fetch_many
        assert fetch_many is not None

        @without_autograph
        def features(index):
            example = dict(self.parse(fetch_many(index[None])[0]))
            wanted = (self.image_key, self.label_key, f"{self.label_key}_no_difficult")
            return {key: example[key] for key in wanted[without_image:] if key in example}

        dataset = tf.data.Dataset.from_tensor_slices(tf.constant(indices, tf.int64))
        yield from dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator()


class Reader:
    """Reads single examples of a split, as serialised protocol buffers: int64 `[n]` to bytes `[n]`, as `records.Reader`.

    Args:
      instructions: TFDS's `file_instructions` of a split.

    Raises:
      UserError: where a file is missing or cannot be read.
    """

    def __init__(self, instructions: list[Any]):
        self._paths = [str(one.filename) for one in instructions]
        takes = [one.take if one.take >= 0 else one.examples_in_shard - one.skip for one in instructions]
        self._skips = [one.skip for one in instructions]
        self._ends = np.cumsum(takes).tolist()
        with futures.ThreadPoolExecutor(THREADS) as pool:
            self._chunks = list(pool.map(_chunks, self._paths))
        self._open = functools.lru_cache(maxsize=most_open_files())(lambda number: open_file(self._paths[number]))
        self._map = map_of(self._paths)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        contents = np.empty(len(rows), object)
        contents[:] = list(self._map(self._read, rows.tolist()))
        return contents

    def _read(self, row: int) -> bytes:
        number, place = self._place(row)
        try:
            begin, end = self._chunks[number][place : place + 2].tolist()
            return layout.record(self._open(number).read(begin, end - begin), begin)
        except (OSError, ValueError):
            return b""

    def name(self, row: int) -> str:
        """The name that TFDS gives an example: its file, and its place in it."""
        number, place = self._place(row)
        return f"{os.path.basename(self._paths[number])}__{place}"

    def _place(self, row: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._ends, row)
        return number, row - (self._ends[number - 1] if number else 0) + self._skips[number]


def open_tfds_records(name: str, builder: tfds.core.DatasetBuilder, split: str) -> RandomAccess:
    """The source of a split of a data set in array_record format. Reads where the examples are, but none of them.

    With several labels an example, the labels are read as well.

    Raises:
      UserError: where pyarrow is missing, which decompresses records, or a file cannot be read.
    """
    extras.check("pyarrow", f"{name} is stored as array_record, which needs pyarrow", "records")
    image_key, label_key = feature_keys(builder)
    feature = builder.info.features[label_key] if label_key else None
    several = isinstance(feature, tfds.features.Sequence)
    decoders = {image_key: tfds.decode.SkipDecoding()}
    reader = Reader(builder.info.splits[split].file_instructions)
    fetch_raw, fetch_raw_many = fetchers(reader)

    def parse(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        return builder.info.features.deserialize_example(raw, decoders=decoders)

    source = TfdsRecords(
        name=name,
        num_examples=builder.info.splits[split].num_examples,
        fetch=lambda index: parse(fetch_raw(index))[image_key],
        fetch_many=fetch_raw_many,
        class_names=(feature.feature if several else feature).names if feature is not None else None,
        parse=parse,
        image_key=image_key,
        label_key=label_key,
        has_several_labels=several,
        reader=reader,
    )
    return source.subset(np.arange(source.num_examples)) if several else source


def _chunks(path: str) -> np.ndarray:
    try:
        file = open_file(path)
        return layout.chunks(file.read, file.size)
    except (OSError, layout.FormatError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
