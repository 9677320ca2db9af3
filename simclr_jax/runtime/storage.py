"""Disks that are full, read-only or not ours: a line instead of a traceback, and a look at the room before the first step."""

from collections.abc import Iterator
import errno
import os
import re
import shutil

from etils import epath

from simclr_jax.errors import StorageError
from simclr_jax.runtime import files

# What to do about each. The libraries below, which raise errors of their own, quote the system's words.
REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room within the quota, then run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then run the same command again",
    errno.EROFS: "the file system can only be read: take another --workdir, or mount it for writing",
    errno.EACCES: "this user may not use it: take another place, or change the permissions",
    errno.EPERM: "this user may not use it: take another place, or change the permissions",
    errno.EIO: "the disk or the network file system fails: when it works again, run the same command again",
    errno.ESTALE: "the network file system has lost it: when it is mounted again, run the same command again",
}
# Of aiohttp, google-auth and Python, by name: the first two are imported only where there is a bucket.
NETWORK_ERRORS = {"ClientConnectionError", "TransportError", "DefaultCredentialsError", "gaierror"}
# How TensorFlow, whose errors are of several types, begins the text.
NETWORK_TEXT = "Error executing an HTTP request: "
_PATH = re.compile(r"""["'](/[^"']+)["']""")


def problem(error: BaseException, written: str | None = None) -> str | None:
    """The line for an error that a disk is the cause of; None for any other error.

    Looks at the errors that led to it as well: a checkpoint that cannot be written is reported by several libraries.

    Args:
      error: of any library.
      written: where the command writes; the line has it where no error has a path.
    """
    codes = [(one, code) for one in _chain(error) if (code := _code_of(one)) is not None]
    if not codes:
        return None
    code = codes[0][1]
    places = (_place_of(one) for one, other in codes if other == code)
    place = next(
        (place for place in places if place), f"a file (the command writes to {written})" if written else "a file"
    )
    return f"{place}: {os.strerror(code)}; {REMEDIES[code]}. What was saved before is kept."


def unreachable(error: BaseException) -> str | None:
    """The line for an error that means that a bucket cannot be reached; None for any other error."""
    for one in _chain(error):
        if {kind.__name__ for kind in type(one).__mro__} & NETWORK_ERRORS or str(one).startswith(NETWORK_TEXT):
            said = " ".join(str(one).removeprefix(NETWORK_TEXT).split())
            return (
                f"the bucket cannot be reached: {said}. Check network and credentials, then run the same command again."
            )
    return None


def check_room(directory: epath.Path, checkpoint_bytes: int, keep: int, existing: int) -> None:
    """Refuses a folder without room for the checkpoints that a run will have there at the same time: `keep` and a new one.

    Args:
      directory: of the checkpoints. Nothing is known of a bucket.
      checkpoint_bytes: of one.
      keep: `config.checkpoint.keep`.
      existing: how many are there already.

    Raises:
      StorageError: says what is needed and what is free.
    """
    if files.is_remote(directory):
        return
    needed = max(keep + 1 - existing, 1) * checkpoint_bytes
    free = shutil.disk_usage(directory).free
    if free < needed:
        fitting = int(free / checkpoint_bytes) + existing - 1
        less = f", or keep fewer: --config.checkpoint.keep={fitting}" if fitting >= 1 else ""
        raise StorageError(
            f"{directory} has {_size(free)} free, but {keep + 1} checkpoints of {_size(checkpoint_bytes)} need "
            f"{_size(needed)} more: make room{less}."
        )


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, the last first."""
    left, seen = [error], set()
    while left:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        left += list(getattr(one, "exceptions", ()))  # of a group


def _code_of(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno if error.errno in REMEDIES else None
    text = str(error)
    return next((code for code in REMEDIES if os.strerror(code) in text), None)


def _place_of(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.filename:
        return str(error.filename2 or error.filename)
    named = _PATH.search(str(error))
    return named.group(1) if named else None
