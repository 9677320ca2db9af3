"""Find the image files below a folder."""

import collections
from collections.abc import Iterator
import functools
import logging
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
    return any(name.lower().endswith(readable()) for _, names in _walk(folder) for name in names)


def folders_in(folder: str) -> list[str]:
    """The sorted names of the folders in a folder, but for those that `images_below` skips."""
    names = [name.rstrip("/") for name in (tf.io.gfile.listdir if "://" in folder else os.listdir)(folder)]
    names = [name for name in names if not name.startswith(".") and _is_text(name)]
    return sorted(name for name in names if tf.io.gfile.isdir(os.path.join(folder, name)))


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
    if "://" in folder:  # a bucket, which has no links
        for parent, _, names in tf.io.gfile.walk(folder):
            if not any(part.startswith(".") for part in parent.removeprefix(folder).split("/")):
                yield parent, names
        return
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        for name in (*folders, *names):
            if not _is_text(name):
                log.warning("%s: the name %s is not UTF-8; it is skipped. Rename it.", parent, ascii(name))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _is_text(name))
        yield parent, [name for name in names if _is_text(name)]


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8, which TensorFlow needs to open a file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
