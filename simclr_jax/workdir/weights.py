"""Which weights a checkpoint has: so that nothing that was computed with other weights passes for theirs."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

from etils import epath

# Of a checkpoint, written with it: sizes and checksums of its files.
CHECKSUMS = "checksums.json"


def of_files(checkpoint: epath.Path, part: str) -> dict[str, Any]:
    """`weights`: a digest of the checksums of one part of a checkpoint; None where they are not known.

    No array is read. The same weights that were written twice have two digests: `training.checkpoint.identity` has a third
    fact for them.
    """
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text())["crc32"]
        of_part = sorted(value for name, value in sums.items() if name.startswith(f"{part}/"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: see `checkpoint.integrity`
        of_part = []
    return {"weights": hashlib.sha256(repr(of_part).encode()).hexdigest()[:16] if of_part else None}


def same(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool | None:
    """Whether two identities are of the same weights; None where that is not known."""
    for fact in ("values", "weights"):
        if was.get(fact) is not None and now.get(fact) is not None:
            return was[fact] == now[fact]
    return None
