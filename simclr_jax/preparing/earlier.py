"""What the output of `simclr_jax.prepare` has from an earlier call."""

import logging
from typing import Any

from etils import epath

from simclr_jax.data.records.index import INDEX
from simclr_jax.data.records.index import MANIFEST
from simclr_jax.data.records.index import UNFINISHED
from simclr_jax.data.records.index import is_shard_name
from simclr_jax.data.records.index import read_manifest
from simclr_jax.data.records.index import remedy
from simclr_jax.data.sources.records import open_split
from simclr_jax.errors import UserError
from simclr_jax.preparing.inputs import CONTENTS
from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")


def is_complete(output: epath.Path, facts: dict[str, Any], changed: float, overwrite: bool) -> bool:
    """Whether the folder has all the records already. With `overwrite`, records of other images or flags, and damaged ones, are
    removed.

    Args:
      output: the folder.
      facts: about the images and flags of this call.
      changed: when an image was changed last; see `Inputs`.
      overwrite: the flag.

    Raises:
      UserError: where it has something else.
    """
    state = next((name for name in (MANIFEST, UNFINISHED) if (output / name).exists()), None)
    if state is None:
        if output.exists() and any(output.iterdir()):
            raise UserError(f"--output={output} has other files: give a new folder.")
        return False
    try:
        if state == MANIFEST:
            earlier = read_manifest(str(output))["facts"]
        else:
            earlier = files.read_json(output / state, remedy(str(output)))
    except UserError:
        if not overwrite:
            raise
        earlier = {}  # damaged
    differing = [
        f"{name} is {facts.get(name)!r}, but was {earlier.get(name)!r}"
        for name in {**earlier, **facts}
        if facts.get(name) != earlier.get(name) and not (name == CONTENTS and _unknown(earlier, facts))
    ]
    # A second is what the time of the state may lack.
    newer = _unknown(earlier, facts) and changed > (output / state).stat().mtime + 1
    if not differing and not (newer and overwrite) and (state == UNFINISHED or not overwrite or _is_sound(output)):
        if newer:
            log.warning(
                "Images are newer than the records in %s: if one has changed, --overwrite prepares them again.", output
            )
        return state == MANIFEST
    if not overwrite:
        raise UserError(
            f"--output={output} has records of other images or flags: {'; '.join(differing)}. Give the same ones, another "
            "folder, or --overwrite."
        )
    _check_ours(output)
    files.remove(output)
    return False


def _unknown(earlier: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether the contents were not read: of large images, and by earlier versions."""
    return earlier.get(CONTENTS) is None or facts.get(CONTENTS) is None


def _is_sound(output: epath.Path) -> bool:
    """Whether the splits of a finished folder can be opened."""
    try:
        for name, split in read_manifest(str(output))["splits"].items():
            open_split(str(output), name, split)
    except UserError as error:
        log.warning("Written again: %s", error)
        return False
    return True


def _check_ours(output: epath.Path) -> None:
    """Refuses to remove a folder with anything that this command has not written."""
    rest = [path for path in paths_in(output) if path.name not in (MANIFEST, UNFINISHED)]
    for path in (file for one in rest for file in (paths_in(one) if one.is_dir() else [one])):
        if not _is_written(path):
            raise UserError(
                f"--overwrite would remove {path}, which simclr_jax.prepare has not written: move it away, or give another "
                "--output."
            )


def _is_written(path: epath.Path) -> bool:
    """Whether it has a name that this command gives."""
    if path.name.startswith(".writing-"):  # a folder
        return True
    name = path.name.removeprefix(".").removesuffix(".tmp")  # of a file that was being written
    return not path.is_dir() and (name == INDEX or is_shard_name(name.removesuffix(".npz")))


def paths_in(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder; in a bucket no folder is there without files."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
