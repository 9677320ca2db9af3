"""Write rows as Parquet, CSV or npz, a part at a time: memory does not grow with their number."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import csv
import dataclasses
import io
import json
from typing import Any
import zipfile

from etils import epath
import numpy as np

from simclr_jax.inference.rows import Rows
from simclr_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a table.

    Attributes:
      labelled: whether there is a column `label`.
      width: the length of the vectors; of classes, how many of the most probable ones.
      class_names: None for vectors.
      about: stored with the table where the format can: encoder, features, ...
    """

    labelled: bool
    width: int
    class_names: Sequence[str] | None
    about: dict[str, Any]

    @property
    def ranked(self) -> list[tuple[str, str]]:
        """Names of the columns of a prediction, in pairs (class, probability), (class_2, probability_2), ..."""
        ends = ["", *(f"_{place}" for place in range(2, self.width + 1))]
        return [(f"class{end}", f"probability{end}") for end in ends]


def write(output: epath.Path, parts: Iterable[Rows], layout: Layout) -> None:
    """Writes a table, in the format of the extension of `output`. The file appears when it is complete.

    Args:
      output: ends with .parquet, .csv or (vectors only) .npz; an existing file is replaced.
      parts: the rows; iterated twice for .npz.
      layout: the columns.
    """
    with _new_file(output) as file:
        _WRITERS[output.suffix.lower()](file, parts, layout)


@contextlib.contextmanager
def _new_file(path: epath.Path) -> Iterator[Any]:
    """A binary file under another name, renamed at the end. In a bucket an object appears when it is complete."""
    if files.is_remote(path):
        with path.open("wb") as file:
            yield file
        return
    temporary = path.parent / f".{path.name}.tmp"
    try:
        with files.named(path):
            with temporary.open("wb") as file:
                yield file
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(file: Any, parts: Iterable[Rows], layout: Layout) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    labels = [("label", pa.string())] * layout.labelled
    if layout.class_names is None:
        values = [("vector", pa.list_(pa.float32(), layout.width))]
    else:
        types = (pa.string(), pa.float32())
        values = [column for names in layout.ranked for column in zip(names, types, strict=True)]
    schema = pa.schema([("path", pa.string()), *labels, *values])
    schema = schema.with_metadata({"simclr_jax": json.dumps(layout.about)})
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in parts:
            unreadable = ~rows.readable
            columns = [pa.array(rows.paths, pa.string())]
            if layout.labelled:
                columns.append(pa.array([label or None for label in rows.labels], pa.string()))
            if layout.class_names is None:
                flat = pa.array(np.ascontiguousarray(rows.values).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, layout.width, mask=pa.array(unreadable)))
            else:
                names = np.array(layout.class_names, object)
                for place in range(layout.width):
                    columns.append(pa.array(names[rows.classes[:, place]], pa.string(), mask=unreadable))
                    columns.append(pa.array(rows.values[:, place], pa.float32(), mask=unreadable))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_csv(file: Any, parts: Iterable[Rows], layout: Layout) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    if layout.class_names is None:
        names = [f"v{place}" for place in range(layout.width)]
    else:
        names = [name for pair in layout.ranked for name in pair]
    writer.writerow(["path", *["label"] * layout.labelled, *names])
    for rows in parts:
        for place, path in enumerate(rows.paths):
            values: list[str] = [f"{value:.9g}" for value in rows.values[place].tolist()]  # 9 digits: exact for float32
            if layout.class_names is not None:
                classes = (layout.class_names[number] for number in rows.classes[place])
                values = [word for pair in zip(classes, values, strict=True) for word in pair]
            if not rows.readable[place]:
                values = [""] * len(names)
            writer.writerow([path, *[rows.labels[place]] * layout.labelled, *values])
    text.detach()


def _write_npz(file: Any, parts: Iterable[Rows], layout: Layout) -> None:
    """Arrays `path`, `label`, `vector` (NaN for an unreadable image) and `about` (JSON)."""
    number, longest = 0, {"path": 1, "label": 1}
    for rows in parts:
        number += len(rows)
        for name, texts in (("path", rows.paths), ("label", rows.labels)):
            longest[name] = max([longest[name], *map(len, texts)])

    def column(name: str, dtype: np.dtype, shape: tuple[int, ...], of_rows: Callable[[Any], Any]) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with archive.open(f"{name}.npy", "w", force_zip64=True) as array:
            np.lib.format.write_array_header_1_0(array, header)  # type: ignore[no-untyped-call]
            for rows in parts if shape else [None]:
                array.write(np.ascontiguousarray(of_rows(rows), dtype).tobytes())

    with zipfile.ZipFile(file, "w") as archive:
        column("path", np.dtype(f"<U{longest['path']}"), (number,), lambda rows: rows.paths)
        if layout.labelled:
            column("label", np.dtype(f"<U{longest['label']}"), (number,), lambda rows: rows.labels)
        vectors = (number, layout.width)
        column("vector", np.dtype("<f4"), vectors, lambda rows: np.where(rows.readable[:, None], rows.values, np.nan))
        about = json.dumps(layout.about)
        column("about", np.dtype(f"<U{len(about)}"), (), lambda _: about)


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
