"""The index of a split of prepared records: where each record is, its label and its name. And the list of the splits.

A split is a folder with files of records and `index.npz`, whose arrays are read only when they are needed. `records.json`
beside the folders is written last, so that where it is, all of it is complete.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import io
import os
import re
from typing import Any
from typing import overload
import zipfile
import zlib

from etils import epath
import numpy as np

from simclr_jax.data.records.files import open_stream
from simclr_jax.errors import UserError
from simclr_jax.runtime import files

MANIFEST, UNFINISHED, INDEX = "records.json", "preparing.json", "index.npz"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the records of a split are.

    Attributes:
      begins: int64 `[n]`, the position of each record in its file.
      sizes: int32 `[n]`, in bytes.
      labels: int32 `[n]`, or None.
      names: of the images.
      file_ends: int64 `[files]`, the number of records in this file and those before it.
      file_bytes: int64 `[files]`, the size of each file.
    """

    begins: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None
    names: "Names"
    file_ends: np.ndarray
    file_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.begins)

    @classmethod
    def load(cls, folder: str) -> "Index":
        """The index in the folder of a split. The names are read when one is asked for.

        Raises:
          UserError: where it is missing or damaged.
        """
        path = os.path.join(folder, INDEX)
        try:
            with open_stream(path) as file, np.load(file) as arrays:
                labels = arrays.get("labels")
                found = {name: arrays[name] for name in ("begins", "sizes", "file_ends", "file_bytes")}
        except (OSError, KeyError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}): {remedy(os.path.dirname(folder))}.") from error
        return cls(**found, labels=labels, names=Names(path, len(found["begins"])))

    def check_split(self, name: str, split: Mapping[str, Any]) -> None:
        """Raises a ValueError where `records.json` says something else of this split than the index."""
        if split["images"] != len(self):
            raise ValueError(f"split {name} has {split['images']!r} images in it, but {len(self)} in its index")
        names = split["class_names"]
        if names is None and self.labels is None:
            return
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise ValueError(f"class_names of split {name} is {str(names)[:40]!r}, not a list of names")
        if len(set(names)) != len(names):
            raise ValueError(f"class_names of split {name} has a name twice")
        highest = -1 if self.labels is None else int(self.labels.max(initial=-1))
        if highest >= len(names):
            raise ValueError(f"split {name} has {len(names)} class_names, but images of the class number {highest}")

    def save(self, folder: epath.Path) -> None:
        """Writes it. `names` may be those of other indices."""
        joined, ends = self.names.arrays()
        arrays = {name: getattr(self, name) for name in ("begins", "sizes", "file_ends", "file_bytes")}
        arrays |= {"names": joined, "name_ends": ends} | ({} if self.labels is None else {"labels": self.labels})
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        files.write_atomically(folder / INDEX, buffer.getvalue())


class Names(Sequence[str]):
    """Names, joined to one text: ten million are 0.5 GB, and are not read before one is asked for.

    Args:
      path: of the index that has them.
      number: how many.
      arrays: the joined text, uint8, and where each name ends in it, int64; None: those of the index.
    """

    def __init__(self, path: str, number: int, arrays: tuple[np.ndarray, np.ndarray] | None = None):
        self._path, self._number, self._arrays = path, number, arrays

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        """These names."""
        encoded = [name.encode() for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls("", len(names), (np.frombuffer(b"".join(encoded), np.uint8), ends))

    @classmethod
    def join(cls, parts: Sequence["Names"]) -> "Names":
        """All names of several."""
        texts, ends = zip(*(part.arrays() for part in parts), strict=True)
        before = np.cumsum([0, *(len(text) for text in texts)])[:-1]
        moved = [end + start for end, start in zip(ends, before, strict=True)]
        return cls("", sum(map(len, parts)), (np.concatenate(texts), np.concatenate(moved)))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        if self._arrays is None:
            with (
                files.damage_of(self._path, "prepare the images again"),
                open_stream(self._path) as file,
                np.load(file) as arrays,
            ):
                self._arrays = arrays["names"], arrays["name_ends"]
        return self._arrays

    def crc32(self) -> int:
        """Of the whole index, names and labels and places, without holding it in memory."""
        crc = 0
        with open_stream(self._path) as file:
            while chunk := file.read(2**22):
                crc = zlib.crc32(chunk, crc)
        return crc

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._number))]
        text, ends = self.arrays()
        row = range(self._number)[index]
        return text[int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes().decode()


def shard_name(number: int, count: int) -> str:
    """The name of a file of records: "00007-of-00042.array_record"."""
    return f"{number:05d}-of-{count:05d}.array_record"


def is_shard_name(name: str) -> bool:
    """Whether a name is one that `shard_name` gives."""
    return re.fullmatch(r"\d{5,}-of-\d{5,}\.array_record", name) is not None


def remedy(root: str) -> str:
    """What to do about a damaged file of a prepared folder."""
    return f"the command of simclr_jax.prepare that wrote {root} writes it again with --overwrite"


def read_manifest(root: str) -> dict[str, Any]:
    """`records.json` of a prepared folder: `splits`, `facts` and `version`.

    Raises:
      UserError: where the folder is not prepared, not completely, or by a newer version, or the file is damaged.
    """
    folder = epath.Path(root)
    if not (folder / MANIFEST).exists():
        if (folder / UNFINISHED).exists():
            raise UserError(
                f"{root!r} is not complete: run its command of simclr_jax.prepare again, which continues it."
            )
        raise UserError(
            f"{root!r} has no {MANIFEST}: give a folder that simclr_jax.prepare has written. For a folder of images: "
            "--config.data.source=folder."
        )
    path = folder / MANIFEST
    manifest = files.read_json(path, remedy(root))
    with files.damage_of(path, remedy(root)):
        newer = manifest["version"] > VERSION
        splits = manifest["splits"] if not newer else {}
        _ = manifest["facts"], [(split["images"], split["class_names"]) for split in splits.values()]
    if newer:
        raise UserError(f"{root!r} was prepared by a newer simclr_jax, and cannot be read by this one.")
    return manifest
