"""The units of the work: each reads some images of one split, one after the other, in any process."""

from collections.abc import Iterator
import dataclasses
import functools
import gzip
import json
import math
import os
import re
import tarfile
from typing import Any
from typing import Protocol
import zlib

from simclr_jax.data.records.files import open_stream
from simclr_jax.data.sources.listing import EXTENSIONS
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf

# A larger label is a mistake: there would be as many classes, and a name for each.
MOST_CLASSES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Example:
    """An image file.

    Attributes:
      name: of the image, for messages and tables.
      content: the bytes of the file; None where they cannot be read.
      label: the name of its class, or its number; None where it has none.
      problem: why it cannot be read.
    """

    name: str
    content: bytes | None
    label: str | int | None = None
    problem: str = ""


class Unit(Protocol):
    """Some images, which become one file of records."""

    def examples(self) -> Iterator[Example]:
        """Reads the images in order."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files of a folder.

    Attributes:
      root: the folder, with a separator at its end; names are relative to it.
      paths: of the files.
      labels: the class of each, or None.
    """

    root: str
    paths: list[str]
    labels: list[str] | None

    def examples(self) -> Iterator[Example]:
        for number, path in enumerate(self.paths):
            label = self.labels[number] if self.labels else None
            name = path.removeprefix(self.root)
            try:
                with tf.io.gfile.GFile(path, "rb") as file:
                    yield Example(name, file.read(), label)
            except tf.errors.OpError as error:
                yield Example(name, None, label, str(error.message).splitlines()[0])


@dataclasses.dataclass(frozen=True)
class Tar:
    """A tar of WebDataset: files with the same name up to the first dot are one example.

    Attributes:
      path: of the tar; it may be compressed.
      label_key: where the label is in a file .json; a file .cls has nothing but a label.
    """

    path: str
    label_key: str

    def examples(self) -> Iterator[Example]:
        key, parts = None, {}
        try:
            # Names of records are UTF-8; of another name, its other bytes are written as \xff.
            open_tar = functools.partial(tarfile.open, mode="r|*", encoding="utf-8", errors="backslashreplace")
            with open_stream(self.path) as file, open_tar(fileobj=file) as tar:
                for member in tar:
                    if not member.isfile() or os.path.basename(member.name).startswith("."):
                        continue
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if key is not None and key != (folder, stem):
                        yield from self._example(key, parts)
                        parts = {}
                    key, extension = (folder, stem), extension.lower()
                    if self._is_image(extension) or extension in ("cls", "json"):
                        content = tar.extractfile(member)
                        assert content is not None  # of a file
                        parts[extension] = content.read()
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"--images: the tar {self.path} cannot be read: {error}.") from error
        if key is not None:
            yield from self._example(key, parts)

    @staticmethod
    def _is_image(extension: str) -> bool:
        return f".{extension.rpartition('.')[2]}" in EXTENSIONS

    def _example(self, key: tuple[str, str], parts: dict[str, bytes]) -> Iterator[Example]:
        """The example, if it has an image. Of several images the first one is taken."""
        image = next((extension for extension in parts if self._is_image(extension)), None)
        if image is not None:
            name = f"{os.path.basename(self.path)}/{'/'.join(part for part in key if part)}.{image}"
            yield Example(name, parts[image], self._label(parts, name))

    def _label(self, parts: dict[str, bytes], name: str) -> str | int | None:
        if "cls" in parts:
            return _number_or_text(parts["cls"].decode("utf-8", "replace").strip(), name)
        if "json" in parts:
            try:
                fields = json.loads(parts["json"])
            except ValueError:
                return None
            value = fields.get(self.label_key) if isinstance(fields, dict) else None
            return value if isinstance(value, str) else _as_class(value, name)
        return None


@dataclasses.dataclass(frozen=True)
class Parquet:
    """A Parquet file with a column of images, as Hugging Face stores data sets.

    Attributes:
      path: of the file.
      image, label: names of columns; label None: none.
    """

    path: str
    image: str
    label: str | None

    def examples(self) -> Iterator[Example]:
        import pyarrow.parquet

        columns = [self.image] + ([self.label] if self.label else [])
        number = 0
        with open_stream(self.path) as file:
            # Small batches, since a row may be megabytes.
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64, columns=columns):
                labels = batch.column(self.label) if self.label else None
                images = batch.column(self.image)
                for row in range(batch.num_rows):
                    label = labels[row].as_py() if labels is not None else None
                    yield self._example(images[row].as_py(), label, number)
                    number += 1

    def _example(self, value: Any, label: Any, number: int) -> Example:
        content = value.get("bytes") if isinstance(value, dict) else value
        inside = value.get("path") if isinstance(value, dict) else None
        name = f"{os.path.basename(self.path)}/{number}{f'/{inside}' if inside else ''}"
        problem = "" if content else "its row has no bytes of an image"
        return Example(name, content or None, label if isinstance(label, str) else _as_class(label, name), problem)


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Examples `start` to `stop` of a split of TFDS."""

    name: str
    data_dir: str | None
    split: str
    start: int
    stop: int

    def examples(self) -> Iterator[Example]:
        from simclr_jax import config as config_lib
        from simclr_jax.data.sources.tfds import Stream
        from simclr_jax.data.sources.tfds import open_tfds
        from simclr_jax.data.sources.tfds_records import TfdsRecords

        data = config_lib.pretrain().data
        part = f"{self.split}[{self.start}:{self.stop}]"
        data.update(source="tfds", name=self.name, root=self.data_dir, test_split=part, memory_mib=0)
        source = open_tfds(data, "test")
        assert isinstance(source, Stream | TfdsRecords)  # what no memory leaves
        for number, (image, label) in enumerate(source.encoded(), self.start):
            name = f"{self.name}/{self.split}/{number}"
            yield Example(name, image, _as_class(label, name))


def _number_or_text(text: str, name: str) -> str | int | None:
    return _as_class(int(text), name) if re.fullmatch(r"-?[0-9]{1,100}", text) else text or None


def _as_class(value: Any, name: str) -> int | None:
    """A class number; None for what means that there is none: -1, as in test sets, or no whole number.

    Raises:
      UserError: for a number that is no class, with the name of its image.
    """
    if (
        not isinstance(value, int | float)
        or value != value
        or value in (-1, math.inf, -math.inf)
        or value != int(value)
    ):
        return None
    if not 0 <= value < MOST_CLASSES:
        raise UserError(
            f"--images: {name} has the label {int(value)}, but labels are the numbers of classes, from 0 to "
            f"{MOST_CLASSES - 1}, or -1 for none."
        )
    return int(value)
