"""Images that `python -m simclr_jax.prepare` has written: ArrayRecord files with an index, on a disk or in a bucket.

A record is an image file. It is read alone: by its position, which the index knows. So the order is a perfect permutation, and
any position can be read without the positions before it, as in a folder.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data.records import layout
from simclr_jax.data.records.files import file_system
from simclr_jax.data.records.files import map_of
from simclr_jax.data.records.files import most_open_files
from simclr_jax.data.records.files import open_file
from simclr_jax.data.records.index import INDEX
from simclr_jax.data.records.index import MANIFEST
from simclr_jax.data.records.index import Index
from simclr_jax.data.records.index import read_manifest
from simclr_jax.data.records.index import remedy
from simclr_jax.data.records.index import shard_name
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.folder import TEST_SPLITS
from simclr_jax.errors import UserError
from simclr_jax.runtime.files import damage_of
from simclr_jax.runtime.tensorflow import tf


def open_records(data: ConfigDict, split: str) -> RandomAccess:
    """The records of a split as a source. Only their index is read here.

    Args:
      data: `config.data`; `root` is what `simclr_jax.prepare` has written.
      split: "train" or "test".

    Raises:
      UserError: where the folder is missing or not complete, or has no such split.
    """
    root = data.root
    if not root:
        raise UserError(
            "config.data.root is not set: give the --output of simclr_jax.prepare, as in --config.data.root=records."
        )
    splits = read_manifest(root)["splits"]
    name = _split_name(root, data, split, splits)
    return open_split(root, name, splits[name])


def open_by_name(place: str) -> RandomAccess | None:
    """The source of a prepared folder with one split, or of the folder of a split in it; None for any other place.

    Raises:
      UserError: where it has several splits.
    """
    place = place.rstrip("/")
    root, name = os.path.split(place)
    if _is_file(os.path.join(place, MANIFEST)):
        root, names = place, list(read_manifest(place)["splits"])
        if not names:
            raise UserError(f"{place!r} has no splits: {remedy(place)}.")
        if len(names) > 1:
            raise UserError(
                f"{place!r} has the splits {', '.join(names)}: name one of them, as {os.path.join(place, names[0])!r}."
            )
        (name,) = names
    elif not (_is_file(os.path.join(place, INDEX)) and _is_file(os.path.join(root, MANIFEST))):
        return None
    splits = read_manifest(root)["splits"]
    if name not in splits:
        raise UserError(f"{os.path.join(root, MANIFEST)} has no split {name}: {remedy(root)}.")
    return open_split(root, name, splits[name])


def _is_file(path: str) -> bool:
    return epath.Path(path).exists()


def open_split(root: str, name: str, split: dict[str, Any]) -> RandomAccess:
    """The source of one split of a prepared folder.

    Args:
      root: the prepared folder.
      name: of the split.
      split: what `records.json` says of it.

    Raises:
      UserError: where a file is missing or damaged.
    """
    folder = os.path.join(root, name)
    index = Index.load(folder)
    with damage_of(os.path.join(root, MANIFEST), remedy(root)):
        index.check_split(name, split)
    class_names = split["class_names"]
    paths = [os.path.join(folder, shard_name(number, len(index.file_ends))) for number in range(len(index.file_ends))]
    _check_files(paths, index)
    reader = Reader(paths, index)
    fetch, fetch_many = fetchers(reader)
    return RandomAccess(
        name=folder,
        num_examples=len(index),
        fetch=fetch,
        fetch_many=fetch_many,
        read_content=lambda index: reader(np.array([index]))[0],
        all_labels=index.labels,
        class_names=class_names if index.labels is not None else None,
        ids=index.names,
    )


class Reader:
    """Reads single records. A call of an instance gives the files of several images, int64 `[n]` to bytes `[n]`.

    Where a record cannot be read, the bytes are empty: TensorFlow would print the traceback of an exception, and no image is
    empty either.
    """

    def __init__(self, paths: list[str], index: Index):
        self._index = index
        # Files are closed when they were not used for a long time, and when no thread reads them.
        self._open = functools.lru_cache(maxsize=most_open_files())(lambda number: open_file(paths[number]))
        self._map = map_of(paths)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        # As arrays, and as few calls for a record as possible: Python runs one of them at a time.
        begins, sizes = self._index.begins[rows], self._index.sizes[rows]
        lengths = layout.stored_lengths(begins, sizes)
        numbers = np.searchsorted(self._index.file_ends, rows, side="right")
        contents = np.empty(len(rows), object)
        columns = (column.tolist() for column in (numbers, begins, lengths, sizes))
        contents[:] = list(self._map(self._record, *columns))
        return contents

    def _record(self, number: int, begin: int, length: int, size: int) -> bytes:
        try:
            content = layout.content(self._open(number).read(begin, length), begin)
        except OSError:
            return b""
        return content if len(content) == size else b""


Fetch = Callable[["tf.Tensor"], "tf.Tensor"]


def fetchers(read_many: Callable[[np.ndarray], np.ndarray]) -> tuple[Fetch, Fetch]:
    """`RandomAccess.fetch` and `fetch_many` of a function of indices, int64 `[n]`, that gives bytes, an array of objects `[n]`.

    A call of Python takes as long as reading several small images.
    """

    def fetch(index: tf.Tensor) -> tf.Tensor:
        return fetch_many(index[None])[0]

    def fetch_many(indices: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(read_many, [indices], tf.string, stateful=False)
        contents.set_shape(indices.shape)
        return contents

    return fetch, fetch_many


def _split_name(root: str, data: ConfigDict, split: str, splits: dict[str, Any]) -> str:
    names = (data.train_split,) if split == "train" else (data.test_split,) if data.test_split else TEST_SPLITS
    found = next((name for name in names if name in splits), None)
    if found is None:
        if not splits:
            raise UserError(f"{root!r} has no splits: {remedy(root)}.")
        raise UserError(
            f"{root!r} has no split {' or '.join(names)}; it has {', '.join(splits)}. Name one with "
            f"--config.data.{split}_split."
        )
    return found


def _check_files(paths: list[str], index: Index) -> None:
    """Refuses a split whose files are missing or of another size than they were written with."""
    folder = os.path.dirname(paths[0])
    if "://" in folder:
        system, inside = file_system(folder)
        there = {os.path.basename(entry["name"]): entry["size"] for entry in system.ls(inside, detail=True)}
    else:
        there = {path.name: path.stat().length for path in epath.Path(folder).iterdir() if path.is_file()}
    for path, size in zip(paths, index.file_bytes, strict=True):
        if size and there.get(os.path.basename(path)) != size:
            state = "is missing" if os.path.basename(path) not in there else "is damaged"
            raise UserError(f"{path} {state}: {remedy(os.path.dirname(folder))}.")
