"""Rows of an output, and the parts of an unfinished one: small files that appear whole, so that a killed run continues.

Parquet and zip files cannot be continued: they end with their table of contents. So the rows are first stored in a folder
`OUTPUT.partial`, a file for every few seconds of work, and become the output at the end.
"""

from collections.abc import Iterator
import dataclasses
import io
import json
from typing import Any
import zipfile

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Rows:
    """Consecutive images and what was computed of them.

    Attributes:
      paths: of each image, or its name in the data set.
      labels: the name of the class of each; empty where it has none.
      readable: bool [n].
      values: float32 [n, k]: vectors, or probabilities in descending order.
      classes: int32 [n, k], the classes of these probabilities; of vectors, [n, 0].
    """

    paths: list[str]
    labels: list[str]
    readable: np.ndarray
    values: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


def join(rows: list[Rows]) -> Rows:
    """All rows of a list, in its order."""
    return Rows(
        paths=[path for part in rows for path in part.paths],
        labels=[label for part in rows for label in part.labels],
        readable=np.concatenate([part.readable for part in rows]),
        values=np.concatenate([part.values for part in rows]),
        classes=np.concatenate([part.classes for part in rows]),
    )


class Parts:
    """The stored rows of an unfinished output. Only the primary process uses it.

    Args:
      output: the output.
      facts: what the rows depend on, JSON values by name. Parts of another run are refused.
    """

    def __init__(self, output: epath.Path, facts: dict[str, Any]):
        self.folder = output.parent / f"{output.name}.partial"
        self._facts = json.loads(json.dumps(facts))
        self._overwrite = False

    def open(self, overwrite: bool = False) -> int:
        """Finds the parts of an earlier run. Returns the batch to continue from; 0 where there are none.

        Where `overwrite` is true, the parts are deleted, unless the same command began them, with `overwrite` and the same
        facts: a job that is preempted and started again has to come to its end.

        Raises:
          UserError: where they are damaged or of a run with other facts, and `overwrite` is false.
        """
        self._overwrite = overwrite
        run = self.folder / "run.json"
        if run.exists():
            try:
                earlier = files.read_json(run, f"delete {self.folder}, or start anew with --overwrite")
            except UserError:
                if not overwrite:
                    raise
                earlier = {}
            differing = [
                f"{name} is {value!r}, but was {earlier.get(name)!r}"
                for name, value in self._facts.items()
                if value != earlier.get(name)
            ]
            if overwrite and (differing or not earlier.get("overwrite")):
                self.remove()
            elif differing:
                raise UserError(
                    f"{self.folder} has the beginning of another run: {'; '.join(differing)}. Continue with the same values, "
                    "or start anew with --overwrite."
                )
        return self._parts()[-1][1] if self._parts() else 0

    def add(self, first: int, stop: int, rows: Rows) -> None:
        """Stores the rows of batches `first` to `stop` (excluded)."""
        if not (self.folder / "run.json").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = self._facts | {"overwrite": self._overwrite}
            files.write_atomically(self.folder / "run.json", json.dumps(facts, indent=1).encode())
        content = io.BytesIO()
        texts = {"paths": json.dumps(rows.paths), "labels": json.dumps(rows.labels)}
        arrays: dict[str, Any] = {"readable": rows.readable, "values": rows.values, "classes": rows.classes}
        arrays |= {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        np.savez(content, **arrays)
        files.write_atomically(self.folder / f"{first:09d}_{stop:09d}.npz", content.getvalue())

    def __iter__(self) -> Iterator[Rows]:
        for _, _, path in self._parts():
            remedy = f"delete {self.folder}, and run the same command again"
            with files.damage_of(path, remedy), np.load(io.BytesIO(path.read_bytes())) as saved:
                texts = {name: json.loads(saved[name].tobytes()) for name in ("paths", "labels")}
                rows = Rows(**texts, readable=saved["readable"], values=saved["values"], classes=saved["classes"])
            yield rows

    def counts(self) -> tuple[int, int]:
        """The numbers of all rows and of the readable ones, without reading the values."""
        total = readable = 0
        for _, _, path in self._parts():
            remedy = f"delete {self.folder}, and run the same command again"
            with (
                files.damage_of(path, remedy),
                path.open("rb") as file,
                zipfile.ZipFile(file) as saved,
                saved.open("readable.npy") as array,
            ):
                of_part = np.lib.format.read_array(array)  # type: ignore[no-untyped-call]
            total, readable = total + len(of_part), readable + int(of_part.sum())
        return total, readable

    def remove(self) -> None:
        if self.folder.exists():
            self.folder.rmtree()

    def _parts(self) -> list[tuple[int, int, epath.Path]]:
        """First batch, stop and file of the parts that follow each other from batch 0 on."""
        found, stop = [], 0
        for path in sorted(self.folder.glob("*_*.npz")) if self.folder.exists() else ():
            first, end = map(int, path.name.removesuffix(".npz").split("_"))
            if first == stop:
                found.append((first, end, path))
                stop = end
        return found
