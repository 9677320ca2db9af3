"""A folder of image files: `root/SPLIT/CLASS/*.jpg`, or for pretraining any folder with images in it."""

import logging
import os

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.errors import UserError
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.tensorflow import tf

log = logging.getLogger("simclr_jax")

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
TEST_SPLITS = ("test", "val", "validation")


def open_folder(data: ConfigDict, split: str) -> RandomAccess:
    """The image files of a folder as a source. Only their names are read here.

    Labels are the names of the class folders in `root/SPLIT`. If `root/SPLIT` does not exist, the training split is all images
    anywhere below `root`, without labels.

    Args:
      data: `config.data`.
      split: "train" or "test".

    Raises:
      UserError: where the folder is missing, or has no images.
    """
    root = data.root
    if not root:
        raise UserError(
            'config.data.root is not set: give the folder of your images, as in "--config.data.root=photos".'
        )
    if not tf.io.gfile.isdir(root):
        raise UserError(f"config.data.root={root!r} is not a folder.")
    folder = _split_folder(data, split)
    paths, ignored = image_files(folder)
    if not paths:
        raise UserError(
            f"no images in {folder!r}: files named *{', *'.join(EXTENSIONS)} are read, and {ignored} other files are there."
        )
    if ignored:
        log.info("%s: %d files do not have the extension of an image and are ignored.", folder, ignored)
    labels, class_names = (None, None) if folder == root else _labels(folder, paths)
    path_tensor = tf.constant(paths)
    return RandomAccess(
        name=folder,
        num_examples=len(paths),
        fetch=lambda index: tf.io.read_file(tf.gather(path_tensor, index)),
        all_labels=labels,
        class_names=class_names,
        ids=paths,
    )


def _split_folder(data: ConfigDict, split: str) -> str:
    """The folder of a split; `data.root` itself if there is none for training."""
    root = data.root
    if split == "train":
        folder = os.path.join(root, data.train_split)
        return folder if tf.io.gfile.isdir(folder) else root
    names = (data.test_split,) if data.test_split else TEST_SPLITS
    for name in names:
        if tf.io.gfile.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    there = sorted(
        name.rstrip("/") for name in tf.io.gfile.listdir(root) if tf.io.gfile.isdir(os.path.join(root, name))
    )
    raise UserError(
        f"config.data.root={root!r} has no folder {' or '.join(names)} with test images; "
        f"it has {', '.join(there[:10]) or 'no folders'}. Name one with --config.data.test_split."
    )


def image_files(folder: str) -> tuple[list[str], int]:
    """The sorted paths of all images below a folder, and the number of other files."""
    paths, ignored = [], 0
    with working(f"listing the files of {folder}"):
        for parent, _, names in tf.io.gfile.walk(folder):
            for name in names:
                if name.startswith("."):
                    continue
                if name.lower().endswith(EXTENSIONS):
                    paths.append(os.path.join(parent, name))
                else:
                    ignored += 1
    return sorted(paths), ignored


def _labels(folder: str, paths: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Class numbers and names from the folder names; None if there are images beside the class folders."""
    classes = [os.path.relpath(path, folder).split(os.sep)[0] for path in paths]
    if any(os.path.join(folder, name) == path for name, path in zip(classes, paths, strict=True)):
        return None, None
    names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))
    names = [name for name in names if not name.startswith(".") and tf.io.gfile.isdir(os.path.join(folder, name))]
    empty = sorted(set(names) - set(classes))
    if empty:
        raise UserError(f"the class folder{'s' * (len(empty) > 1)} {', '.join(empty)} in {folder!r} hold no images.")
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[name] for name in classes], np.int32), names
