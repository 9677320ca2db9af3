"""A folder of image files: `root/SPLIT/CLASS/*.jpg`, or for pretraining any folder with images in it."""

import logging
import os

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data.records.index import MANIFEST
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.listing import folders_in
from simclr_jax.data.sources.listing import has_image
from simclr_jax.data.sources.listing import images_below
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf

log = logging.getLogger("simclr_jax")

DEFAULT_SPLIT = "train"
TEST_SPLITS = ("test", "val", "validation")
# Other names that folders beside a training split have.
OTHER_SPLITS = ("dev", "unlabeled", "unlabelled", "extra")


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
    if tf.io.gfile.exists(os.path.join(root, MANIFEST)):
        raise UserError(
            f"config.data.root={root!r} has records of simclr_jax.prepare: add --config.data.source=records."
        )
    folder = _split_folder(data, split)
    paths = images_below(folder)
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
        if tf.io.gfile.isdir(folder):
            _check_is_a_split(root, data.train_split)
            return folder
        _check_has_no_split(root, data.train_split)
        return root
    names = (data.test_split,) if data.test_split else TEST_SPLITS
    for name in names:
        if tf.io.gfile.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    there = folders_in(root)
    raise UserError(
        f"config.data.root={root!r} has no folder {' or '.join(names)} with test images; "
        f"it has {', '.join(there[:10]) or 'no folders'}. Name one with --config.data.test_split."
    )


def _check_has_no_split(root: str, wanted: str) -> None:
    """Refuses a root without the training split, where not all images of it can be meant."""
    if wanted != DEFAULT_SPLIT:
        raise UserError(
            f"config.data.train_split is {wanted!r}, but {root!r} has no such folder; it has "
            f"{', '.join(folders_in(root)[:10]) or 'no folders'}. Without config.data.train_split all images in it are used."
        )
    by_case = {name.casefold(): name for name in folders_in(root)}
    if wanted in by_case:
        raise UserError(f"{root!r} has a folder {by_case[wanted]!r}: take --config.data.train_split={by_case[wanted]}.")
    for name in TEST_SPLITS:
        if name in by_case:
            log.warning("%s has no folder train, so all images in it are used, also those in %s.", root, by_case[name])


def _check_is_a_split(root: str, split: str) -> None:
    """Refuses `root/{bus,car,train}`, where "train" may be a class."""
    if split != DEFAULT_SPLIT:
        return
    rest = [name for name in folders_in(root) if name != split]
    if any(name.casefold() in (*TEST_SPLITS, *OTHER_SPLITS) for name in rest):
        return
    rest = [name for name in rest if has_image(os.path.join(root, name))]
    if rest:
        raise UserError(
            f"{root!r} has a folder train beside other ones with images, as {', '.join(rest[:3])}. If train is the split with "
            f"the training images: --config.data.root={os.path.join(root, split)}. If it is a class: "
            "--config.data.train_split=. takes all of them."
        )


def _labels(folder: str, paths: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Class numbers and names from the folder names; None if there are images beside the class folders."""
    classes = [os.path.relpath(path, folder).split(os.sep)[0] for path in paths]
    beside = [path for name, path in zip(classes, paths, strict=True) if os.path.join(folder, name) == path]
    if beside:
        if len(beside) < len(paths):
            log.warning(
                "%s: no labels are used, because %d of its images are in no class folder, as %s.",
                folder,
                len(beside),
                os.path.basename(beside[0]),
            )
        return None, None
    names = folders_in(folder)
    empty = sorted(set(names) - set(classes))
    if empty:
        raise UserError(f"the class folder{'s' * (len(empty) > 1)} {', '.join(empty)} in {folder!r} hold no images.")
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[name] for name in classes], np.int32), names
