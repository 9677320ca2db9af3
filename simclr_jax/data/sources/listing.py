"""Find the image files below a folder."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures
import functools
import glob
import logging
import math
import os

from simclr_jax.augment import image_files
from simclr_jax.errors import UserError
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.tensorflow import tf

log = logging.getLogger("simclr_jax")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".avif", ".jp2", ".heic", ".heif", ".jxl"),
)

# Folders of a bucket that are listed at once.
LISTINGS = 16


@functools.cache
def readable() -> tuple[str, ...]:
    """Those of `EXTENSIONS` that can be read here: HEIC and JPEG XL need the extra `formats`."""
    return tuple(sorted(image_files.readable_extensions() & set(EXTENSIONS)))


def images_below(folder: str) -> list[str]:
    """The sorted paths of all images in a folder, at any depth. Says how many other files are left out.

    Names that begin with a dot are skipped, files and folders. A folder that links lead to several times is read once.

    Raises:
      UserError: where there are none.
    """
    paths, others = [], collections.Counter[str]()
    with working(f"listing the files of {folder}"):
        for parent, names in _walk(folder):
            for name in names:
                extension = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if extension in readable():
                    paths.append(os.path.join(parent, name))
                else:
                    others[extension] += 1
    left_out = _left_out(others)
    if not paths:
        raise UserError(f"no images in {folder!r}: files named *{', *'.join(readable())} are read. {left_out}".strip())
    if others:
        log.info("%s: %s", folder, left_out)
    return sorted(paths)


def has_image(folder: str) -> bool:
    """Whether there is an image in a folder, at any depth."""
    return any(
        name.lower().endswith(readable()) and not name.startswith(".") for _, names in _walk(folder) for name in names
    )


def files_below(folder: str, depth: int, *, quiet: bool = True) -> list[str]:
    """The paths of all files in a local folder, and at most `depth` folders deeper. Names that are not UTF-8 are left out."""
    return [os.path.join(parent, name) for parent, names in _walk_local(folder, depth, quiet=quiet) for name in names]


def files_named(pattern: str) -> list[str]:
    """The paths of local files that a pattern fits; of the file with this very name, if there is one. Warns of
    names that are not UTF-8."""
    paths = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
    for path in (path for path in paths if not is_text(path)):
        log.warning("the name %s is not UTF-8; it is skipped. Rename it.", ascii(path))
    return [path for path in paths if is_text(path)]


def folders_in(folder: str) -> list[str]:
    """The sorted names of the folders in a folder, but for those that `images_below` skips."""
    if "://" in folder:
        return _in_bucket(folder)[0]
    names = [name for name in os.listdir(folder) if not name.startswith(".") and is_text(name)]
    return sorted(name for name in names if os.path.isdir(os.path.join(folder, name)))


def _left_out(others: collections.Counter[str]) -> str:
    """A sentence about the files that are not read, by extension, and what would read some of them."""
    if not others:
        return ""
    shown = [f"{count:,} {extension or 'without an extension'}" for extension, count in others.most_common(8)]
    more = f" and {len(others) - 8} more kinds" if len(others) > 8 else ""
    text = (
        f"{others.total():,} {'file is' if others.total() == 1 else 'files are'} left out ({', '.join(shown)}{more})."
    )
    installable = [extension for extension in others if extension in EXTENSIONS]
    if installable:
        text += f" To read {' and '.join(sorted(installable))}: pip install 'simclr_jax[formats]'."
    return text


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `folder`, once, with the names of its files; no folder whose name begins with a dot."""
    if "://" in folder:
        yield from _walk_bucket(folder)
    else:
        yield from _walk_local(folder)


def _walk_local(folder: str, depth: float = math.inf, *, quiet: bool = False) -> Iterator[tuple[str, list[str]]]:
    """`_walk` of a folder of this machine, at most `depth` folders deeper; `quiet`: without warnings."""
    seen: set[str] = set()
    rest: list[tuple[str, int]] = [(folder, 0)]
    while rest:
        parent, level = rest.pop()
        place = os.path.realpath(parent)
        if place in seen:
            continue
        seen.add(place)
        folders, names = _entries(parent, logging.DEBUG if quiet else logging.WARNING)
        if level < depth:
            rest += [(os.path.join(parent, name), level + 1) for name in sorted(folders, reverse=True)]
        yield parent, names


def _entries(folder: str, level: int) -> tuple[list[str], list[str]]:
    """The names of the folders, without those that begin with a dot, and of the files in a folder. Tells of the rest.

    Args:
      folder: of this machine.
      level: of the messages in the log.
    """
    folders, names = [], []
    try:
        entries = list(os.scandir(folder))
    except PermissionError:
        log.log(level, "%s may not be read; it is skipped.", folder)
        return [], []
    for entry in entries:
        if not is_text(entry.name):
            log.log(level, "%s: the name %s is not UTF-8; it is skipped. Rename it.", folder, ascii(entry.name))
        elif _is(entry.is_dir):
            folders += [entry.name] * (not entry.name.startswith("."))
        elif _is(entry.is_file):
            names.append(entry.name)
        else:
            log.log(level, "%s is no file; it is skipped. It is a link to nothing, or a pipe.", entry.path)
    return folders, names


def _is(asked: Callable[[], bool]) -> bool:
    """The answer of a directory entry; False for a link in a circle, which is an error otherwise."""
    try:
        return asked()
    except OSError:
        return False


def _walk_bucket(folder: str) -> Iterator[tuple[str, list[str]]]:
    """`_walk` of a bucket, which has no links. Lists some folders at once, because each waits for its answers."""
    with concurrent.futures.ThreadPoolExecutor(LISTINGS) as pool:
        level = [folder]
        while level:
            some, level = level[:LISTINGS], level[LISTINGS:]
            for parent, (folders, names) in zip(some, pool.map(_in_bucket, some), strict=True):
                level += [os.path.join(parent, name) for name in folders]
                yield parent, names


def _in_bucket(folder: str) -> tuple[list[str], list[str]]:
    """The sorted names of the folders, without those that begin with a dot, and of the files in a folder of a bucket.

    A request for each page of the listing, and one that asks whether the folder exists; `tf.io.gfile.walk` would ask whether
    each file is a folder, with two requests.
    """
    folders, names = [], []
    for name in tf.io.gfile.listdir(folder):
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        elif folder.startswith("gs://") or name.lower().endswith(EXTENSIONS):
            names.append(name)
        # Not all file systems of TensorFlow end the names of folders with a slash.
        elif tf.io.gfile.isdir(os.path.join(folder, name)):
            folders.append(name)
        else:
            names.append(name)
    return sorted(name for name in folders if name and not name.startswith(".")), sorted(names)


def is_text(name: str) -> bool:
    """Whether a name is UTF-8, which TensorFlow needs to open a file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
