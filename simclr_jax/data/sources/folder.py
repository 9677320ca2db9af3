"""Image files: a folder `root/SPLIT/CLASS/*.jpg`, for pretraining any folder with images in it, a list, a table of labels."""

import logging
import os

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.data.records.index import MANIFEST
import simclr_jax.data.sources.arrays as arrays
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.files import check_file_system
from simclr_jax.data.sources.files import expanded
from simclr_jax.data.sources.files import of_files
from simclr_jax.data.sources.files import read_list
import simclr_jax.data.sources.label_table as label_table
from simclr_jax.data.sources.listing import folders_in
from simclr_jax.data.sources.listing import has_image
from simclr_jax.data.sources.listing import images_below
from simclr_jax.data.sources.listing import readable
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")

DEFAULT_SPLIT, TEST_SPLITS = arrays.DEFAULT_SPLIT, arrays.TEST_SPLITS
# Other names that folders beside a training split have.
OTHER_SPLITS = ("dev", "unlabeled", "unlabelled", "extra")


def open_folder(data: ConfigDict, split: str) -> RandomAccess:
    """The image files of a folder, or of a list, as a source. Only their names are read here; of an .npz, everything.

    Labels are those of the table `data.labels`. Without one they are the names of the class folders in `root/SPLIT`, or
    those that a list has. If `root/SPLIT` does not exist, the training split is all images anywhere below `root`, without
    labels.

    Args:
      data: `config.data`.
      split: "train" or "test".

    Raises:
      UserError: where the folder is missing, or has no images; for a list or a table that cannot be used.
    """
    root = expanded(data.root or "")
    if not root:
        raise UserError(
            'config.data.root is not set: give the folder of your images, as in "--config.data.root=photos".'
        )
    check_file_system(root, "config.data.root")
    is_folder = epath.Path(root).is_dir()
    if not is_folder and not epath.Path(root).exists():
        raise UserError(
            f"config.data.root={root!r} does not exist: give a folder, a text file with paths of images, or an .npz of arrays."
        )
    if root.lower().endswith(arrays.EXTENSION) and not is_folder:
        return _of_arrays(data, root, split)
    if data.get("labels"):
        return _of_table(data, root, split)
    if not is_folder:
        return _of_list(data, root, split)
    if (epath.Path(root) / MANIFEST).exists():
        raise UserError(
            f"config.data.root={root!r} has records of simclr_jax.prepare: add --config.data.source=records."
        )
    folder = _split_folder(data, root, split)
    paths = images_below(folder)
    return of_files(paths, folder, None if folder == root else _labels(folder, paths))


def _of_arrays(data: ConfigDict, root: str, split: str) -> RandomAccess:
    """The images of a split in a file of NumPy arrays."""
    if data.get("labels"):
        raise UserError(
            f"config.data.labels={data.labels!r}: the labels of {root!r} are an array in it. Leave the table out."
        )
    test_splits = (data.test_split,) if data.test_split else TEST_SPLITS
    splits = (data.train_split,) if split == "train" else test_splits
    return arrays.Arrays(root, f"config.data.root={root!r}").open(splits)


def _of_list(data: ConfigDict, root: str, split: str) -> RandomAccess:
    """The images of a text file with one path in each line: all of them are training images."""
    paths, labels = _listed(root)
    wanted = data.train_split if split == "train" else None
    if wanted != DEFAULT_SPLIT:
        which = f"split {wanted!r}" if wanted else "test images"
        raise UserError(
            f"config.data.root={root!r} is a list, which has no {which}: name a table with the columns path, class and split "
            "with --config.data.labels, or give a folder."
        )
    return of_files(paths, root, labels)


def _listed(root: str) -> tuple[list[str], list[str] | None]:
    what = f"config.data.root={root!r}"
    if root.lower().endswith(readable()):
        raise UserError(f"{what} is one image: give a folder, or a text file with the path of an image in each line.")
    return read_list(root, what)


def _of_table(data: ConfigDict, root: str, split: str) -> RandomAccess:
    """The images of a folder or list that the table `data.labels` names, with the labels that it has."""
    table = label_table.read(data.labels)
    given, names = (
        ("train_split", (data.train_split,))
        if split == "train"
        else ("test_split", (data.test_split,) if data.test_split else TEST_SPLITS)
    )
    name = next((name for name in names if name in table.splits()), None)
    if name is None and (table.has_splits or names != (DEFAULT_SPLIT,)):
        there = f"it has {', '.join(table.splits()[:10])}" if table.has_splits else "it has no column split"
        raise UserError(
            f"config.data.labels={table.file!r} has no split {' or '.join(names)}: {there}. The column split names the split "
            f"of each image; --config.data.{given} chooses one."
        )
    is_folder = epath.Path(root).is_dir()
    images = images_below(root) if is_folder else _listed(root)[0]
    paths, classes = table.select(images, root if is_folder else "", name, say=split == "train")
    if not paths:
        raise UserError(f"config.data.labels={table.file!r}: no image of the split {name} is in {root}.")
    return of_files(paths, root if name is None else f"{root}, split {name}", classes)


def _split_folder(data: ConfigDict, root: str, split: str) -> str:
    """The folder of a split; `root` itself if there is none for training."""
    if split == "train":
        folder = os.path.join(root, data.train_split)
        if epath.Path(folder).is_dir():
            _check_is_a_split(root, data.train_split)
            return folder
        _check_has_no_split(root, data.train_split)
        return root
    names = (data.test_split,) if data.test_split else TEST_SPLITS
    for name in names:
        if (epath.Path(root) / name).is_dir():
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


def _labels(folder: str, paths: list[str]) -> list[str] | None:
    """The class of each image, from the folder names; None if there are images beside the class folders."""
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
        return None
    empty = sorted(set(folders_in(folder)) - set(classes))
    if empty:
        are = "class folder {} in {!r} holds" if len(empty) == 1 else "class folders {} in {!r} hold"
        raise UserError(
            f"the {are.format(', '.join(empty), folder)} no images: remove what is empty. If a --workdir is meant, take one "
            "outside of the images."
        )
    return classes
