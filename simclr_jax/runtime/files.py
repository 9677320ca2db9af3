"""Small files in a workdir. `etils.epath` lets the workdir be a local folder or a bucket (gs://, s3://)."""

from collections.abc import Iterator
import contextlib
import json
import time
from typing import Any
import zipfile
import zlib

from etils import epath
from tensorboardX import record_writer

from simclr_jax.errors import UserError

# A bucket stores whole objects, so a growing file is uploaded again each time: at most this often.
UPLOAD_EVERY_SECONDS = 60.0
# What JSON and numpy raise at damaged files, and what a file of other fields leads to.
_OF_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Like `path.resolve()`, which would turn gs:// into a local path; with `~` expanded."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).expanduser().resolve()


def write_atomically(path: epath.Path, content: bytes) -> None:
    """Write a small file so that no reader ever sees half of it.

    Locally by renaming a temporary file. A bucket shows an object only when all of it is there.

    Args:
      path: an existing file is replaced.
      content: of the whole file.
    """
    if is_remote(path):
        path.write_bytes(content)
        return
    temporary = path.parent / f".{path.name}.tmp"
    try:
        with named(path):
            temporary.write_bytes(content)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def named(path: epath.PathLike) -> Iterator[None]:
    """Adds the path to errors of the `with` block that have none: the system says only on opening which file it is."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def check_writable(path: epath.Path, flag: str) -> None:
    """Refuse a file that cannot be written, before the work for it. Nothing stays behind.

    Raises:
      UserError: with the flag that named it, and the reason. The folder has to exist.
    """
    if is_remote(path):
        return
    probe = path.parent / f".{path.name}.probe"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {error.strerror or error}.") from error


def set_aside(path: epath.Path) -> epath.Path:
    """Renames a damaged file, `data.json` to `data.damaged.json`, and returns its new path."""
    target = path.parent / f"{path.stem}.damaged{path.suffix}"
    path.rename(target)
    return target


@contextlib.contextmanager
def damage_of(path: epath.PathLike, remedy: str) -> Iterator[None]:
    """Names a file in the line of an error where the `with` block reads it and finds something else than it should have.

    Args:
      path: of the file.
      remedy: what to do, as in "run the same command again".

    Raises:
      UserError: with both, and the reason.
    """
    try:
        yield
    except UserError:
        raise
    except _OF_DAMAGE as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or "it ends too early"
        raise UserError(f"{path} is damaged ({reason}): {remedy}.") from error


def read_json(path: epath.Path, remedy: str) -> dict[str, Any]:
    """The content of a JSON file that has fields.

    Raises:
      UserError: as `damage_of`.
    """
    with damage_of(path, remedy):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("it has no fields")
        return content


def remove(path: epath.Path) -> None:
    """Remove a file, or a folder with all that it holds; nothing where there is none."""
    if path.exists():
        (path.rmtree if path.is_dir() else path.unlink)()


@contextlib.contextmanager
def removed_on_error(path: epath.Path) -> Iterator[None]:
    """Remove a file or folder before the `with` block, if an earlier attempt left it, and after it if the block fails."""
    remove(path)
    try:
        yield
    except BaseException:
        remove(path)
        raise


class Appending:
    """A file that grows. `flush` writes to disk at once; in a bucket it uploads at most once a minute, and `sync` always.

    Args:
      path: if the file exists, new data is appended.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._remote = is_remote(path)
        self._file = None if self._remote else path.open("ab")
        self._content = bytearray(path.read_bytes() if self._remote and path.exists() else b"")
        self._stored, self._stored_at = len(self._content), time.monotonic()

    def write(self, data: bytes) -> int:
        if self._file:
            with named(self._path):
                return self._file.write(data)
        self._content += data
        return len(data)

    def flush(self) -> None:
        if self._file:
            with named(self._path):
                self._file.flush()
        elif time.monotonic() - self._stored_at > UPLOAD_EVERY_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Store everything written so far."""
        if self._file:
            with named(self._path):
                self._file.flush()
        elif len(self._content) > self._stored:
            self._path.write_bytes(bytes(self._content))
            self._stored, self._stored_at = len(self._content), time.monotonic()

    def close(self) -> None:
        self.sync()
        if self._file:
            self._file.close()


class _EventFiles:
    """The file system interface of tensorboardX (`register_writer_factory`)."""

    def open(self, path: str) -> Appending:
        return Appending(epath.Path(path))

    def directory_check(self, path: str) -> None:
        epath.Path(path).mkdir(parents=True, exist_ok=True)


def let_tensorboardx_write(workdir: epath.Path) -> None:
    """Make tensorboardX write through `etils.epath` if the workdir is in a bucket."""
    if is_remote(workdir):
        record_writer.register_writer_factory(str(workdir).partition(":")[0], _EventFiles())
