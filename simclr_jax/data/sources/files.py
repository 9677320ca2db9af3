"""Image files as a source, wherever their paths come from: a folder, a list, a table of labels."""

from collections.abc import Sequence
import errno
import functools
import os
import stat

from etils import epath
import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf


def of_files(paths: list[str], name: str = "images", labels: Sequence[str] | None = None) -> RandomAccess:
    """A source of files; an unreadable one is found only when it is read. `labels`: the class of each, by name."""
    class_names = sorted(set(labels)) if labels else None

    @functools.cache
    def path_tensor() -> "tf.Tensor":
        with tf.init_scope():
            return tf.constant(paths)

    number = {label: place for place, label in enumerate(class_names or [])}
    return RandomAccess(
        name=name,
        num_examples=len(paths),
        fetch=lambda index: tf.io.read_file(tf.gather(path_tensor(), index)),
        read_content=lambda index: _content(paths[index]),
        all_labels=np.array([number[label] for label in labels], np.int32) if labels else None,
        class_names=class_names,
        ids=paths,
    )


def _content(path: str) -> bytes:
    """The content of an image file.

    Raises:
      OSError: where it cannot be read; also for a pipe, which would be waited for.
    """
    if "://" not in path and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return epath.Path(path).read_bytes()


def read_list(file: str, what: str) -> tuple[list[str], list[str] | None]:
    """The paths in a text file with one in each line, `~` expanded, and their labels, if each line has one after a tab.

    Args:
      file: its path, also in a bucket.
      what: names it in messages, as in "--images='list.txt'".

    Raises:
      UserError: where it is no such list, or none of its first 100 images exists.
    """
    check_file_system(file, what)
    try:
        text = read_file(file, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is no text file with the path of an image in each line: {error}") from error
    # Not `splitlines`, which ends lines at characters that names of files may have.
    lines = [line.split("\t") for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{what} is an empty list: it has the path of an image in each line.")
    _check_lines(lines, what)
    labelled = [len(line) > 1 for line in lines]
    if any(labelled) and not all(labelled):
        place = labelled.index(False)
        raise UserError(f"{what} has labels, but not for all images: {lines[place][0]!r} has none.")
    paths = [expanded(line[0].strip()) for line in lines]
    for path in {path.partition("://")[0]: path for path in paths if "://" in path}.values():
        check_file_system(path, what)
    if not any(epath.Path(path).exists() for path in paths[:100]):
        raise UserError(
            f"{what}: {paths[0]!r} does not exist, nor do the paths after it. They are relative to the current folder."
        )
    return paths, [line[1].strip() for line in lines] if all(labelled) else None


def _check_lines(lines: list[list[str]], what: str) -> None:
    """Refuses lines with several tabs, tabs without a label, and paths with two labels."""
    label_of: dict[str, str] = {}
    for path, *labels in lines:
        if len(labels) == 1 and not labels[0].strip():
            raise UserError(
                f"{what}: the class is missing after the tab in the line of {path!r}: a line is PATH or PATH, a tab, CLASS."
            )
        if len(labels) > 1:
            raise UserError(
                f"{what}: the line of {path!r} has {len(labels)} tabs, but a line is PATH or PATH, a tab, CLASS."
            )
        if labels and label_of.setdefault(path, labels[0]) != labels[0]:
            raise UserError(
                f"{what} names {path!r} twice, as {label_of[path]!r} and as {labels[0]!r}: leave one of the lines."
            )


def read_file(path: str, what: str) -> bytes:
    """The content of a file, also in a bucket.

    Raises:
      UserError: for a folder, or a pipe, which would be waited for; and where it cannot be read. `what` names it.
    """
    if "://" not in path and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{what} is no regular file.")
    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}") from error


def check_file_system(path: str, what: str) -> None:
    """Refuses a path such as http://..., which TensorFlow cannot open.

    Raises:
      UserError: with what would be right.
    """
    if "://" not in path:
        return
    try:
        tf.io.gfile.exists(path)
    except tf.errors.UnimplementedError:
        scheme = path.partition("://")[0]
        raise UserError(
            f"{what}: {path!r} cannot be opened, because {scheme}:// is not supported. Download the files, or give paths on a "
            "disk or in a bucket, gs://."
        ) from None
    except tf.errors.OpError:  # a bucket that cannot be asked: what reads from it says why
        pass


def expanded(path: str) -> str:
    """A path with `~` expanded; one in a bucket as it is."""
    return path if "://" in path else os.path.expanduser(path)
