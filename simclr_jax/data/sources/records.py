"""Images that `python -m simclr_jax.prepare` has written: ArrayRecord files with an index, on a disk or in a bucket.

A record is an image file. It is read alone: by its position, which the index knows. So the order is a perfect permutation, and
any position can be read without the positions before it, as in a folder.
"""

import bisect
import functools
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data.records import layout
from simclr_jax.data.records.files import BucketFile
from simclr_jax.data.records.files import LocalFile
from simclr_jax.data.records.files import file_system
from simclr_jax.data.records.files import most_open_files
from simclr_jax.data.records.files import open_file
from simclr_jax.data.records.index import Index
from simclr_jax.data.records.index import read_manifest
from simclr_jax.data.records.index import shard_name
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.folder import TEST_SPLITS
from simclr_jax.errors import UserError
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
    return open_split(root, name, splits[name]["class_names"])


def open_split(root: str, name: str, class_names: list[str] | None) -> RandomAccess:
    """The source of one split of a prepared folder."""
    folder = os.path.join(root, name)
    index = Index.load(folder)
    paths = [os.path.join(folder, shard_name(number, len(index.file_ends))) for number in range(len(index.file_ends))]
    _check_files(paths, index)
    return RandomAccess(
        name=folder,
        num_examples=len(index),
        fetch=fetcher(Reader(paths, index)),
        all_labels=index.labels,
        class_names=class_names if index.labels is not None else None,
        ids=index.names,
    )


class Reader:
    """Reads single records. A call of an instance gives the content of an image file; empty bytes where it cannot be read."""

    def __init__(self, paths: list[str], index: Index):
        self._begins, self._sizes, self._ends = index.begins, index.sizes, index.file_ends.tolist()
        # Files are closed when they were not used for a long time, and when no thread reads them.
        self._open = functools.lru_cache(maxsize=most_open_files())(lambda number: open_file(paths[number]))

    def __call__(self, row: np.ndarray | int) -> bytes:
        begin, size = int(self._begins[row]), int(self._sizes[row])
        try:
            file: LocalFile | BucketFile = self._open(bisect.bisect_right(self._ends, int(row)))
            return layout.read_content(file.read, begin, size)
        except (OSError, layout.FormatError):
            return b""  # TensorFlow would print the traceback of an exception; no image begins so


def fetcher(read: Any) -> Any:
    """`RandomAccess.fetch` of a function of the index that gives bytes."""

    def fetch(index: tf.Tensor) -> tf.Tensor:
        content = tf.numpy_function(read, [index], tf.string, stateful=False)
        content.set_shape([])
        return content

    return fetch


def _split_name(root: str, data: ConfigDict, split: str, splits: dict[str, Any]) -> str:
    names = (data.train_split,) if split == "train" else (data.test_split,) if data.test_split else TEST_SPLITS
    found = next((name for name in names if name in splits), None)
    if found is None:
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
            raise UserError(f"{path} {state}: delete {os.path.dirname(folder)} and prepare the images again.")
