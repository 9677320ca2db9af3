"""What a data set is: so that a run is never continued with other images or labels unseen."""

from collections.abc import Iterable
from collections.abc import Sequence
import hashlib
from typing import Any
import zlib

import numpy as np

from simclr_jax.data.records.index import Names
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source

# Contents are looked at up to this size: the rest would take longer than a start may.
SMALL_EXAMPLES, SMALL_BYTES = 2000, 64 * 2**20


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


def _digest_of_names(ids: Sequence[str], folder: str) -> str:
    if isinstance(ids, Names):  # of records: perhaps millions, which are not read for it
        return f"{ids.crc32():08x}"
    return _digest(one.removeprefix(folder).encode() for one in ids)


def _contents(source: RandomAccess) -> str | None:
    if source.pixels is not None and source.num_examples > SMALL_EXAMPLES:
        return _digest(
            [zlib.crc32(np.ascontiguousarray(source.pixels).data).to_bytes(4, "little")]
        )  # as they are in memory
    if source.num_examples > SMALL_EXAMPLES or "://" in source.name:
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
