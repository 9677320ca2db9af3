"""`data.json`: on which images, and of which encoder, the results in a workdir are. A run continues with the same ones only."""

from collections.abc import Mapping
import json
import logging
from typing import Any

from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files
from simclr_jax.workdir import weights

log = logging.getLogger("simclr_jax")

FILE = "data.json"
# What has been continued with other data, by --accept_new_data: what it was before.
BEFORE = "before"
# The part that each record has.
NEEDED = "training images"
# Facts of `data.sources.fingerprint` and `training.checkpoint.identity`, and how a difference in them is said.
_FACTS = {
    "images": "{old} images are now {new}",
    "classes": "the classes are other ones",
    "names": "the images have other names",
    "labels": "the labels differ",
    "contents": "the contents of the images differ",
    "step": "it was at step {old} and is at step {new}",
    "values": "it has other weights",
    "weights": "it has other weights",
    "seed": "its initial weights were of seed {old} and are of seed {new}",
}

# By part: "training images", "test images", "encoder", "teacher".
Record = Mapping[str, Any]


def read(workdir: epath.Path) -> dict[str, Any] | None:
    """The record of a workdir; None where there is none, as of versions until 0.1.0, or where it is damaged."""
    try:
        record = json.loads((workdir / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return record if _is_record(record) else None


def _is_record(content: Any) -> bool:
    """Whether it has the parts of a record: facts of training images, perhaps of others, and what was before."""
    if not isinstance(content, dict):
        return False
    before = content.get(BEFORE, [])
    parts = [facts for part, facts in content.items() if part != BEFORE]
    return (
        all(facts is None or isinstance(facts, dict) for facts in parts)
        and "images" in (content.get(NEEDED) or {})
        and isinstance(before, list)
        and all(isinstance(one, dict) for one in before)
    )


def check(workdir: epath.Path, now: Record, *, accept: bool) -> dict[str, Any]:
    """Refuses to continue a run with other data than it had, unless that is accepted.

    Args:
      workdir: of a run that has begun.
      now: what the run would continue with.
      accept: go on, and remember what the data were before.

    Returns:
      The record to write: `now`, and under "before" what it was.

    Raises:
      UserError: with what differs, or where the record is damaged.
    """
    old = read(workdir)
    if old is None and (workdir / FILE).exists():
        if not accept:
            raise UserError(
                f"{workdir / FILE} is damaged, so nothing says on which images this run was begun. If they are the same, "
                "--accept_new_data continues; otherwise take another --workdir."
            )
        if distributed.is_primary():  # all processes come here, and only one can rename it
            log.warning("%s was damaged; it is kept as %s.", workdir / FILE, files.set_aside(workdir / FILE))
    if old is None:
        return dict(now)
    before = old.get(BEFORE, [])
    found = differences(old, now)
    if not found:
        return dict(now) | ({BEFORE: before} if before else {})
    if not accept:
        raise UserError(
            f"{workdir} is a run on other data: {'; '.join(found)}. Take another --workdir, or continue with the new data by "
            "--accept_new_data."
        )
    log.warning("Continuing with other data: %s.", "; ".join(found))
    return dict(now) | {
        BEFORE: [*before, {key: value for key, value in old.items() if key != BEFORE} | {"differed": found}]
    }


def differences(old: Record, now: Record) -> list[str]:
    """What differs between two records, in words. A fact that one of them lacks is not compared."""
    found = []
    for part, facts in now.items():
        was = old.get(part)
        if not facts or not was or weights.same(was, facts):
            continue
        said = [
            text.format(old=was[fact], new=facts[fact])
            for fact, text in _FACTS.items()
            if was.get(fact) is not None and facts.get(fact) is not None and was[fact] != facts[fact]
        ]
        if said:
            found.append(f"{part}: {', '.join(dict.fromkeys(said))}")
    return found


def is_of_files(record: Record | None, checkpoint: epath.Path) -> bool:
    """Whether a record may be of the encoder in a checkpoint, by its files. No array is read.

    False also for the same weights where they were written again. True where that is not known.
    """
    was = (record or {}).get("encoder")
    return not isinstance(was, dict) or weights.same(was, weights.of_files(checkpoint, "encoder")) is not False


def write(workdir: epath.Path, record: dict[str, Any]) -> None:
    """Write the record, on the primary process."""
    if distributed.is_primary():
        files.write_atomically(workdir / FILE, (json.dumps(record, indent=1) + "\n").encode())
