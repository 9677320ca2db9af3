"""Labels of image files from a table: CSV or Parquet with the columns `path` and `class`, and perhaps `split`."""

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import csv
import dataclasses
import io
import logging
import os
from typing import Any

from etils import epath

from simclr_jax.data.sources.files import check_file_system
from simclr_jax.data.sources.files import expanded
from simclr_jax.data.sources.files import read_file
from simclr_jax.errors import UserError
from simclr_jax.runtime import extras

log = logging.getLogger("simclr_jax")

PATH, CLASS, SPLIT = "path", "class", "split"
# How many names a message has at most.
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """What a table says of each image.

    Attributes:
      file: its path.
      rows: path, as it is in the table, to (class, split); the split is None where there is no such column.
      has_splits: whether there is a column `split`.
    """

    file: str
    rows: dict[str, tuple[str, str | None]]
    has_splits: bool

    def splits(self) -> list[str]:
        """The names of its splits, sorted."""
        return sorted({split for _, split in self.rows.values() if split is not None})

    def select(
        self, images: Sequence[str], folder: str, split: str | None, *, say: bool
    ) -> tuple[list[str], list[str]]:
        """The images of a split that are in the table, in the order of `images`, and the class of each.

        Args:
          images: the images that there are.
          folder: in which relative paths of the table begin; "" for the current one.
          split: the name of the split; None for all rows.
          say: log how many images the table does not name, and how many of its rows have no image.

        Raises:
          UserError: where no row has an image, and where two rows have the same one and disagree.
        """
        known = {_comparable(image): image for image in images}
        of_image: dict[str, tuple[str, str | None]] = {}
        missing = []
        for path, row in self.rows.items():
            image = known.get(_comparable(_joined(folder, path)))
            if image is None:
                missing.append(path)
            elif of_image.setdefault(image, row) != row:
                raise self._disagreement(image, of_image[image], row)
        if not of_image:
            raise UserError(
                f"config.data.labels={self.file!r}: none of the {len(self.rows):,} rows is one of the {len(images):,} images "
                f"of {folder or 'the list'}, as {images[0]}; the first one is {missing[0]!r}. Paths are relative to "
                f"{folder or 'the current folder'}, or absolute."
            )
        if say:
            self._say(missing, [image for image in images if image not in of_image])
        chosen = [image for image in images if image in of_image and split in (None, of_image[image][1])]
        return chosen, [of_image[image][0] for image in chosen]

    def _disagreement(self, path: str, one: tuple[str, str | None], other: tuple[str, str | None]) -> UserError:
        column = CLASS if one[0] != other[0] else SPLIT
        place = 0 if column == CLASS else 1
        return UserError(
            f"config.data.labels={self.file!r} names {path!r} twice, with {column} {one[place]!r} and {other[place]!r}: leave "
            "one of the rows."
        )

    def _say(self, missing: list[str], unnamed: list[str]) -> None:
        if missing:
            log.warning(
                "%s: %s without an image, as %s.",
                self.file,
                _counted(len(missing), "row is", "rows are"),
                _some(missing),
            )
        if unnamed:
            counted = _counted(len(unnamed), "image is", "images are")
            log.warning("%s: %s not in this table and left out, as %s.", self.file, counted, _some(unnamed))


def read(file: str) -> LabelTable:
    """Reads a table. No image is looked up.

    Raises:
      UserError: for a file that is missing or no such table, with what is wrong in it.
    """
    file = expanded(file)
    what = f"config.data.labels={file!r}"
    check_file_system(file, "config.data.labels")
    if not epath.Path(file).exists():
        raise UserError(f"{what} does not exist: give a CSV or Parquet file with the columns {PATH} and {CLASS}.")
    if epath.Path(file).is_dir():
        raise UserError(f"{what} is a folder, but has to be a CSV or Parquet file with the columns {PATH} and {CLASS}.")
    content = read_file(file, what)
    is_parquet = content[:4] == b"PAR1" or file.lower().endswith(".parquet")
    columns, values = (_of_parquet if is_parquet else _of_csv)(content, what)
    missing = [name for name in (PATH, CLASS) if name not in columns]
    if missing:
        raise UserError(
            f"{what} has no column {' and no column '.join(missing)}: it has {', '.join(map(str, columns)) or 'none'}."
        )
    wanted = [name for name in (PATH, CLASS, SPLIT) if name in columns]
    table = LabelTable(file, {}, SPLIT in columns)
    for line, row in values:
        empty = [name for name in wanted if row[name] is None or not str(row[name]).strip()]
        if empty:
            raise UserError(f"{what}: line {line} has no {empty[0]}. Leave out images without one.")
        several = [name for name in wanted if isinstance(row[name], list | dict)]
        if several:
            raise UserError(f"{what}: line {line} has the {several[0]} {row[several[0]]!r}, but has to have one value.")
        path, *rest = (str(row[name]).strip() for name in wanted)
        said = (rest[0], rest[1] if table.has_splits else None)
        if table.rows.setdefault(path, said) != said:
            raise table._disagreement(path, table.rows[path], said)
    if not table.rows:
        raise UserError(f"{what} has no rows.")
    return table


def _of_csv(content: bytes, what: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The names of the columns, and the rows with their line numbers."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 (at byte {error.start:,}): save it as CSV in UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{what} is no CSV file: line 1: {error}.") from error
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and mark in columns[0]:
            raise UserError(f"{what} has its columns separated by {name}, but they have to be separated by commas.")
    twice = [name for name, count in collections.Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"{what} has two columns {twice[0]!r}.")

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for values in reader:
                if values and len(values) != len(columns):
                    raise UserError(
                        f"{what}: line {reader.line_num} has {len(values)} values for {len(columns)} columns. Values with "
                        'commas are put in quotes: "a,b.jpg".'
                    )
                if values:
                    yield reader.line_num, dict(zip(columns, values, strict=True))
        except csv.Error as error:
            raise UserError(f"{what} is no CSV file: line {reader.line_num}: {error}.") from error

    return columns, rows()


def _of_parquet(content: bytes, what: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The same of a Parquet file; its rows are numbered from 1."""
    parquet = extras.load("pyarrow.parquet", f"{what} needs pyarrow", "embed", ". Or give a .csv file.")
    import pyarrow

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        columns = [str(name) for name in file.schema_arrow.names]
        table = file.read([name for name in (PATH, CLASS, SPLIT) if name in columns])
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{what} is no Parquet file: {str(error).splitlines()[0]}") from error
    return columns, enumerate(table.to_pylist(), 1)


def _joined(folder: str, path: str) -> str:
    path = expanded(path)
    return path if "://" in path else os.path.join(folder, path)


def _comparable(path: str) -> str:
    """The same text for all ways to write a path."""
    if "://" in path:
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{os.path.normpath(rest)}"
    return os.path.abspath(path)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
