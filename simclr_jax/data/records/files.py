"""Ranges of bytes of files, on a disk or in a bucket, from many threads."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import os
import resource
from typing import Any

from simclr_jax.runtime import extras

# Packages by which fsspec reads a bucket.
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
# Requests to a bucket at the same time.
REQUESTS = 64


class LocalFile:
    """A file of this machine. It is open until the last reference to it is gone."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on. Other threads of Python run meanwhile."""
        return os.pread(self._descriptor, length, offset)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def __del__(self):
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class BucketFile:
    """An object in a bucket. Each read is one request for these bytes; TensorFlow's client would fetch 64 MiB."""

    def __init__(self, path: str):
        self._file_system, self._path = file_system(path)

    def read(self, offset: int, length: int) -> bytes:
        return self._file_system.cat_file(self._path, start=offset, end=min(offset + length, self.size))

    @functools.cached_property
    def size(self) -> int:
        return int(self._file_system.info(self._path)["size"])


def open_file(path: str) -> LocalFile | BucketFile:
    """The file at a path, which may be gs://BUCKET/...

    Raises:
      OSError: where it cannot be opened.
    """
    return BucketFile(path) if "://" in path else LocalFile(path)


def open_stream(path: str) -> contextlib.AbstractContextManager[Any]:
    """A file of Python for reading bytes, also of a bucket."""
    if "://" not in path:
        return open(path, "rb")
    system, inside = file_system(path)
    return system.open(inside, "rb")


def file_system(path: str) -> tuple[Any, str]:
    """The file system of fsspec for a bucket, and the path in it.

    Raises:
      UserError: where the package that reads it is missing.
    """
    import fsspec

    protocol = path.partition("://")[0]
    package = _PACKAGES.get(protocol, "fsspec")
    extra = "" if package == "gcsfs" else f", and pip install {package}"
    extras.check(package, f"to read records from {protocol}:// needs {package}", "records", f"{extra}.")
    return fsspec.core.url_to_fs(path)


def forget_listings(path: str) -> None:
    """Looks again what is in a bucket: fsspec remembers it, but other processes have written there."""
    if "://" not in path:
        return
    system, _ = file_system(path)
    system.invalidate_cache()
    if path.startswith("gs://"):  # as epath opens it: fsspec has one object for each set of options
        type(system)(finalize_on_close=True).invalidate_cache()


def map_of(paths: Sequence[str]) -> Callable[..., Iterable[Any]]:
    """`map` for reading from these files: of a bucket many at a time, since each request takes tens of milliseconds."""
    if not any("://" in path for path in paths[:1]):
        return map
    return futures.ThreadPoolExecutor(REQUESTS, thread_name_prefix="bucket").map


def most_open_files() -> int:
    """How many files may be open at once: a quarter of what the system allows a process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(16, soft // 4)
