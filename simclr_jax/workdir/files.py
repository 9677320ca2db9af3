"""Small files in a workdir, which may be a folder or a place in a bucket (gs://, s3://): both through `etils.epath`."""

import time

from etils import epath
from tensorboardX import record_writer

# An object in a bucket is always written whole, so a growing file is written this often only.
UPLOAD_EVERY_SECONDS = 60.0


def is_remote(path: epath.PathLike) -> bool:
    return "://" in str(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """`path.resolve()`, which would make a local path of gs://."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).resolve()


def write_atomically(path: epath.Path, content: bytes) -> None:
    """Writes a file so that it is never seen half-written: by renaming; objects in a bucket appear whole anyway."""
    if is_remote(path):
        path.write_bytes(content)
        return
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(path)


class Appending:
    """A file that grows. On disk each `flush` shows what was written; in a bucket, one of those a minute does.

    Args:
      path: an existing file is continued.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._remote = is_remote(path)
        self._file = None if self._remote else path.open("ab")
        self._content = bytearray(path.read_bytes() if self._remote and path.exists() else b"")
        self._stored, self._stored_at = len(self._content), time.monotonic()

    def write(self, data: bytes) -> int:
        if self._file:
            return self._file.write(data)
        self._content += data
        return len(data)

    def flush(self) -> None:
        if self._file:
            self._file.flush()
        elif time.monotonic() - self._stored_at > UPLOAD_EVERY_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Everything written so far is stored when this returns."""
        if self._file:
            self._file.flush()
        elif len(self._content) > self._stored:
            self._path.write_bytes(bytes(self._content))
            self._stored, self._stored_at = len(self._content), time.monotonic()

    def close(self) -> None:
        self.sync()
        if self._file:
            self._file.close()


class _EventFiles:
    """What tensorboardX asks of a file system (`register_writer_factory`)."""

    def open(self, path: str) -> Appending:
        return Appending(epath.Path(path))

    def directory_check(self, path: str) -> None:
        epath.Path(path).mkdir(parents=True, exist_ok=True)


def let_tensorboardx_write(workdir: epath.Path) -> None:
    """TensorBoard summaries in this workdir go through `etils.epath` where it is in a bucket."""
    if is_remote(workdir):
        record_writer.register_writer_factory(str(workdir).partition(":")[0], _EventFiles())
