"""Write the images of a unit into one file of records. A file is seen only when it is complete and proven."""

from collections.abc import Iterator
import dataclasses
import io
import json
import os
import shutil
import tempfile
from typing import Any
import zlib

from etils import epath
import numpy as np

from simclr_jax.data.records import layout
from simclr_jax.data.records.files import LocalFile
from simclr_jax.data.records.index import Names
from simclr_jax.data.records.index import shard_name
from simclr_jax.preparing.convert import Unreadable
from simclr_jax.preparing.convert import stored_form
from simclr_jax.preparing.examples import Example
from simclr_jax.preparing.examples import Unit
from simclr_jax.runtime import files

# One image in a chunk and no compression: its bytes are where the index says.
OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Task:
    """A unit and the file to write for it.

    Attributes:
      unit: its images.
      folder: of the split.
      number, count: of this file, and how many the split has.
      shorter_side: at most this many pixels; 0: any size.
    """

    unit: Unit
    folder: str
    number: int
    count: int
    shorter_side: int

    @property
    def path(self) -> str:
        return os.path.join(self.folder, shard_name(self.number, self.count))

    @property
    def table_path(self) -> str:
        """Of the table of this file, which is written after it: where it is, the file is complete."""
        return f"{self.path}.npz"


@dataclasses.dataclass(frozen=True)
class Table:
    """What a file of records has.

    Attributes:
      begins, sizes: as in `records.index.Index`.
      names: of the images.
      labels: int32 `[n]`, rows of `label_values`; -1 for none.
      label_values: names or numbers of classes.
      file_bytes: the size of the file; 0 where no image could be read, and there is no file.
      unreadable: a line for each image that is left out.
    """

    begins: np.ndarray
    sizes: np.ndarray
    names: Names
    labels: np.ndarray
    label_values: list[str | int]
    file_bytes: int
    unreadable: list[str]

    @classmethod
    def load(cls, path: str) -> "Table":
        """The table in a file.

        Raises:
          UserError: where it is damaged.
        """
        with (
            files.damage_of(path, f"delete {path}, and the same command writes it again"),
            np.load(io.BytesIO(epath.Path(path).read_bytes())) as arrays,
        ):
            texts = json.loads(arrays["texts"].tobytes())
            names = Names("", len(arrays["begins"]), (arrays["names"], arrays["name_ends"]))
            return cls(arrays["begins"], arrays["sizes"], names, arrays["labels"], **texts)

    def save(self, path: str) -> None:
        joined, ends = self.names.arrays()
        texts = {name: getattr(self, name) for name in ("label_values", "file_bytes", "unreadable")}
        arrays = {name: getattr(self, name) for name in ("begins", "sizes", "labels")}
        buffer = io.BytesIO()
        encoded = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        np.savez(buffer, names=joined, name_ends=ends, texts=encoded, **arrays)
        files.write_atomically(epath.Path(path), buffer.getvalue())


def write(task: Task) -> tuple[int, list[str]]:
    """Writes the file of a task, unless it is there.

    Returns:
      How many images it has, and a line for each that cannot be read.
    """
    if epath.Path(task.table_path).exists():
        table = Table.load(task.table_path)
        return len(table.begins), table.unreadable
    unreadable: list[str] = []
    images = _stored(task, unreadable)
    # array_record writes to a disk only. Beside the output the file can be renamed; to a bucket it is copied.
    remote = files.is_remote(task.folder)
    with tempfile.TemporaryDirectory(dir=None if remote else task.folder, prefix=".writing-") as folder:
        local = os.path.join(folder, "records")
        table = _write_records(images, local, unreadable)
        if table.file_bytes:
            _put(local, task.path, remote)
    table.save(task.table_path)
    return len(table.begins), unreadable


def _put(local: str, path: str, remote: bool) -> None:
    if not remote:
        os.replace(local, path)
        return
    with open(local, "rb") as source, epath.Path(path).open("wb") as target:
        shutil.copyfileobj(source, target, 2**24)


def _stored(task: Task, unreadable: list[str]) -> Iterator[tuple[Example, bytes]]:
    """The images that can be read, as they are stored."""
    for example in task.unit.examples():
        try:
            if example.content is None:
                raise Unreadable(example.problem)
            yield example, stored_form(example.content, task.shorter_side)
        except Unreadable as error:
            unreadable.append(f"{example.name}: {error}")


def _write_records(images: Iterator[tuple[Example, bytes]], path: str, unreadable: list[str]) -> Table:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(path, OPTIONS)
    names, labels, checksums = [], [], []
    for example, content in images:
        writer.write(content)
        names.append(example.name)
        labels.append(example.label)
        checksums.append(zlib.crc32(content))
    writer.close()
    places = _proven_places(path, checksums)
    values = sorted({label for label in labels if label is not None}, key=str)
    rows: dict[Any, int] = {value: row for row, value in enumerate(values)}
    return Table(
        begins=np.array([begin for begin, _ in places], np.int64),
        sizes=np.array([size for _, size in places], np.int32),
        names=Names.of(names),
        labels=np.array([rows.get(label, -1) for label in labels], np.int32),
        label_values=values,
        file_bytes=os.path.getsize(path) if names else 0,
        unreadable=unreadable,
    )


def _proven_places(path: str, checksums: list[int]) -> list[tuple[int, int]]:
    """Where each record is, after reading it from there."""
    if not checksums:
        return []
    file = LocalFile(path)
    chunks = layout.chunks(file.read, file.size)[:-1]
    places = [layout.plain_record(file.read, int(chunk)) for chunk in chunks]
    read = [zlib.crc32(layout.read_content(file.read, begin, size)) for begin, size in places]
    if read != checksums:
        raise OSError(f"{path}: what was written is not what is read")
    return places
