"""Read a table of embeddings, as `simclr_jax.embed` writes it: Parquet, NPZ or CSV."""

from collections.abc import Callable
import dataclasses
import logging
import re

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.runtime import extras

log = logging.getLogger("simclr_jax")

PATH, LABEL, VECTOR = "path", "label", "vector"
# Fewer vectors have no mean that says what all images have in common.
ENOUGH_FOR_A_MEAN = 20


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Images and their embeddings.

    Attributes:
      paths: `[n]`, where each image is.
      vectors: float32 `[n, dim]`, each of length 1, around their mean.
      labels: `[n]` class names, or None.
    """

    paths: list[str]
    vectors: np.ndarray
    labels: list[str] | None = None

    def row(self, path: str) -> int:
        """The row of an image, by its path or by the end of its path.

        Raises:
          UserError: if no path ends like that, or several do.
        """
        rows = [number for number, other in enumerate(self.paths) if other == path]
        rows = rows or [number for number, other in enumerate(self.paths) if other.endswith("/" + path.lstrip("./"))]
        if len(rows) == 1:
            return rows[0]
        if rows:
            two = ", ".join(self.paths[row] for row in rows[:2])
            raise UserError(
                f"--nearest={path}: {len(rows)} images end like that, such as {two}. Give more of the path."
            )
        raise UserError(f"--nearest={path}: the table has no such image. Its first one is {self.paths[0]}.")


def read(name: str) -> Embeddings:
    """Read a table and scale its vectors to length 1 around their mean. Rows without a vector are left out.

    Raises:
      UserError: if the file does not exist, cannot be read, is empty, or has no column of vectors.
    """
    path = epath.Path(name)
    if path.suffix not in READERS:
        raise UserError(
            f"--embeddings={name}: the file must end in {', '.join(READERS)}, as simclr_jax.embed writes it."
        )
    if not path.exists():
        raise UserError(f"--embeddings={name}: no such file. `python -m simclr_jax.embed --help` says how to make one.")
    try:
        columns = READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # of a type that depends on the format
        raise UserError(f"--embeddings={name} cannot be read: {error}") from error
    missing = [column for column in (PATH, VECTOR) if column not in columns]
    if missing:
        raise UserError(f"--embeddings={name} has no column {missing[0]!r}, but {', '.join(columns) or 'none'}.")
    vectors = np.asarray(columns[VECTOR], np.float32)
    if vectors.ndim != 2 or not len(vectors):
        raise UserError(f"--embeddings={name} has no rows with vectors.")
    wrong = [name for name in (PATH, LABEL) if name in columns and len(columns[name]) != len(vectors)]
    if wrong:
        size = len(columns[wrong[0]])
        raise UserError(f"--embeddings={name} has {len(vectors)} vectors, but {size} rows in the column {wrong[0]!r}.")
    length = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(length) & (length > 0)
    if not good.any():
        raise UserError(f"--embeddings={name} has no vector that is finite and not zero.")
    labels = columns.get(LABEL)
    if not good.all():
        log.warning("%s: %d of %d vectors are zero or not finite and are left out.", name, np.sum(~good), len(good))
        vectors, length = vectors[good], length[good]
    rows = np.flatnonzero(good)
    return Embeddings(
        [str(columns[PATH][row]) for row in rows],
        around_mean(vectors / length[:, None]),
        None if labels is None else ["" if labels[row] is None else str(labels[row]) for row in rows],
    )


def around_mean(unit: np.ndarray) -> np.ndarray:
    """The directions from the mean of unit vectors, float32 `[n, dim]`.

    Features that most images have (after a ReLU none is negative) bring the cosines of any two close to 1. Seen from the
    mean, as `simclr_jax.verdict` sees them, only what sets images apart counts. Few vectors, and vectors that are all equal,
    stay as they are.
    """
    if len(unit) < ENOUGH_FOR_A_MEAN:
        return unit
    apart = unit - unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    length = np.linalg.norm(apart, axis=1, keepdims=True)
    if length.max() < 1e-3:  # the differences are mostly rounding
        return unit
    return apart / np.maximum(length, 1e-6)


def _read_parquet(path: epath.Path) -> dict:
    needs = "Parquet needs pyarrow, which is not installed"
    parquet = extras.load("pyarrow.parquet", needs, "embed", ", or use .npz.")
    with path.open("rb") as file:
        table = parquet.read_table(file, columns=None)
    if VECTOR not in table.column_names:
        return dict.fromkeys(table.column_names)
    table = table.filter(table.column(VECTOR).is_valid())
    vectors = table.column(VECTOR).combine_chunks()
    columns = {PATH: table.column(PATH).to_pylist()} if PATH in table.column_names else {}
    if LABEL in table.column_names:
        columns[LABEL] = table.column(LABEL).to_pylist()
    return columns | {VECTOR: vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)}


def _read_npz(path: epath.Path) -> dict:
    try:
        with path.open("rb") as file, np.load(file) as content:
            return {name: content[name] for name in content.files}
    except (ValueError, AttributeError) as error:  # whose message is about pickles
        raise ValueError("it is no file of named arrays") from error


def _read_csv(path: epath.Path) -> dict:
    import csv

    with path.open("r") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    places = [number for number, name in enumerate(head) if re.fullmatch(r"(v|vector_)\d+", name)]
    if not places:
        return dict.fromkeys(head)  # no column of vectors
    rows = [row for row in rows if row[places[0]]]
    columns: dict = {name: [row[head.index(name)] for row in rows] for name in (PATH, LABEL) if name in head}
    return columns | {VECTOR: np.array([[float(row[place]) for place in places] for row in rows], np.float32)}


READERS: dict[str, Callable[[epath.Path], dict]] = {".parquet": _read_parquet, ".npz": _read_npz, ".csv": _read_csv}
