"""What tells the weights of two checkpoints apart, and whether a checkpoint still has those that were used."""

from collections.abc import Mapping
import hashlib
from typing import Any

from etils import epath
import jax
import numpy as np

from simclr_jax.training.checkpoint.integrity import reader
from simclr_jax.training.checkpoint.places import is_step
from simclr_jax.training.checkpoint.reading import host_arrays
from simclr_jax.workdir import data_record
from simclr_jax.workdir import weights


@reader
def identity(checkpoint: epath.Path, part: str) -> dict[str, Any]:
    """Facts about one part of a checkpoint, for `workdir.data_record`.

    Returns:
      `step`; `weights`, a digest of the checksums of its files, None without checksums; and `values`, a digest of its
      arrays, which is the same for the same weights, wherever and whenever they were written.
    """
    step = int(checkpoint.name) if is_step(checkpoint.name) else None
    return {"step": step} | weights.of_files(checkpoint, part) | {"values": digest(host_arrays(checkpoint, part))}


def changed(checkpoint: epath.Path, part: str, was: Mapping[str, Any] | None) -> list[str]:
    """What differs between an earlier `identity` and that of now, in words. Nothing is compared where `was` is empty.

    The arrays are read only where the files are other ones.
    """
    if not was or weights.same(was, weights.of_files(checkpoint, part)):
        return []
    return data_record.differences({part: was}, {part: identity(checkpoint, part)})


def digest(tree: Any) -> str:
    """A digest of the names, types, shapes and values of all arrays in a tree, each on this host or replicated."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    found = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        array = np.ascontiguousarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]
