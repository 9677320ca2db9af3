"""Damage to the files of a folder, as disks, network file systems and people do it."""

from collections.abc import Iterator
import pathlib
import shutil

import numpy as np

KINDS = ("flip a bit", "cut", "zeros", "empty", "delete")


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(path: pathlib.Path, kind: str, rng: np.random.Generator) -> None:
    """Damages one file."""
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    elif content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)


def damaged_copies(folder: pathlib.Path, inside: str, copies: pathlib.Path, kinds, seed: int = 0) -> Iterator[tuple]:
    """Copies of a folder, each with one damaged file below `inside`: yields copy, file, kind. A copy is gone at the next.

    Args:
      folder: to copy.
      inside: a folder in it.
      copies: where to.
      kinds: a function from the number of a file to the kinds of damage that are tried on it.
      seed: for the bits.
    """
    rng = np.random.default_rng(seed)
    for number, file in enumerate(files_of(folder / inside)):
        name = file.relative_to(folder)
        for kind in kinds(number):
            shutil.rmtree(copies, ignore_errors=True)
            shutil.copytree(folder, copies)
            damage(copies / name, kind, rng)
            yield copies, name, kind
