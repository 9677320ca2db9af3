"""What a data set is: so that a run is never continued with other images or labels unseen."""

from collections.abc import Iterable
from collections.abc import Sequence
from concurrent import futures
import hashlib
import itertools
import os
from typing import Any
import zlib

import numpy as np

from simclr_jax.data.records.index import Names
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.runtime import files

# Contents are looked at up to this size: the rest would take longer than a start may.
SMALL_EXAMPLES, SMALL_BYTES = 2000, 64 * 2**20
# Of a larger set, `digest_of_images` looks at the contents of this many.
SAMPLED = 500


def fingerprint(source: Source) -> dict[str, Any]:
    """Facts about a data set that are the same wherever it is, for `workdir.data_record`.

    Returns:
      `images`, `classes`: how many images, and the names of the classes (None without labels). `names`, `labels`: digests of
      the names of the images without the folder they are in, and of their labels; None where they are not known without
      reading the whole source. `contents`: a digest of the images of a small data set on this machine, or of one in
      memory; None for another one.
    """
    known = source if isinstance(source, RandomAccess) else None
    ids = known.ids if known else None
    labels = known.all_labels if known else None
    return {
        "name": source.name,
        "images": source.num_examples,
        "classes": None if source.class_names is None else list(source.class_names),
        "names": None if ids is None else _digest_of_names(ids, source.name),
        "labels": None if labels is None else _digest([labels.tobytes()]),
        "contents": _contents(known) if known else None,
    }


def digest_of_images(source: Source) -> str | None:
    """A digest of the labels of a set of any size, the sizes of its files on this machine, and some contents.

    Not of the times of files: a job that is preempted may find its images downloaded again. None where images can only be
    read one after the other.
    """
    if not isinstance(source, RandomAccess):
        return None
    ids = () if source.ids is None or isinstance(source.ids, Names) else source.ids
    chunks = [ids[start : start + 1000] for start in range(0, len(ids), 1000)]
    with futures.ThreadPoolExecutor(16) as pool:  # a network disk answers several at once
        sizes = np.array([*itertools.chain(*pool.map(_sizes, chunks))], np.int64)
    labels = b"" if source.all_labels is None else source.all_labels.tobytes()
    names = (str(name).encode() for name in source.class_names or ())
    return _digest([labels, *names, sizes.tobytes(), _some_contents(source)])


def _sizes(paths: Sequence[str]) -> list[int]:
    """Of files on this machine; -1 where there is none."""
    found = []
    for path in paths:
        try:
            found.append(-1 if files.is_remote(path) else os.stat(path).st_size)
        except (OSError, ValueError):
            found.append(-1)
    return found


def _some_contents(source: RandomAccess) -> bytes:
    """Checksums: of pixels in memory; otherwise of images at even distances, up to `SMALL_BYTES`; of none in a bucket."""
    if source.pixels is not None:
        return zlib.crc32(np.ascontiguousarray(source.pixels).data).to_bytes(4, "little")
    rows = np.unique(np.linspace(0, source.num_examples - 1, min(SAMPLED, source.num_examples)).astype(int))
    if files.is_remote(source.name) or (source.ids is not None and files.is_remote(source.describe(int(rows[0])))):
        return b""
    size, found = 0, []
    for row in rows:
        try:
            image = source.content(int(row))
        except OSError:  # it is counted, later
            image = b""
        content = image if isinstance(image, bytes) else image.tobytes()
        size += len(content)
        if size > SMALL_BYTES:
            break
        found.append(zlib.crc32(content).to_bytes(4, "little"))
    return b"".join(found)


def _digest_of_names(ids: Sequence[str], folder: str) -> str:
    if isinstance(ids, Names):  # of records: perhaps millions, which are not read for it
        return f"{ids.crc32():08x}"
    return _digest(one.removeprefix(folder).encode() for one in ids)


def _contents(source: RandomAccess) -> str | None:
    if source.pixels is not None and source.num_examples > SMALL_EXAMPLES:
        return _digest(
            [zlib.crc32(np.ascontiguousarray(source.pixels).data).to_bytes(4, "little")]
        )  # as they are in memory
    if source.num_examples > SMALL_EXAMPLES or files.is_remote(source.name):
        return None
    sums, size = [], 0
    for index in range(source.num_examples):
        try:
            image = source.content(index)
        except OSError:  # the run will name an image that cannot be read
            content = b""
        else:
            content = image if isinstance(image, bytes) else image.tobytes()
        size += len(content)
        if size > SMALL_BYTES:
            return None
        sums.append(zlib.crc32(content).to_bytes(4, "little"))
    return _digest(sums)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]
