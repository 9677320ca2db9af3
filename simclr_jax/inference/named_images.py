"""The images that a command line names: a folder, a list of files, records, a TFDS split, the digits."""

import dataclasses
import functools
import logging
import os
import re

from etils import epath

from simclr_jax import config as config_lib
from simclr_jax.data.sources.arrays import Arrays
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.data.sources.base import join
from simclr_jax.data.sources.files import expanded
from simclr_jax.data.sources.files import of_files
from simclr_jax.data.sources.files import read_list
from simclr_jax.data.sources.folder import TEST_SPLITS
from simclr_jax.data.sources.listing import images_below
from simclr_jax.data.sources.listing import readable
from simclr_jax.data.sources.records import open_by_name
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")

# A TFDS split up to this size is held in memory; a larger one is streamed.
MEMORY_MIB = 256


def open_images(name: str, data_dir: str | None = None) -> Source:
    """The source that `--images` names. No image is read here, unless a data set fits into memory.

    Args:
      name: a folder with images at any depth; one image; a text file with the path of an image in each line, and perhaps its
        label after a tab; FILE.npz, arrays of images, or FILE.npz:SPLIT; a split that `simclr_jax.prepare` has written;
        tfds:NAME:SPLIT; or digits, digits:train, digits:test.
      data_dir: of TFDS; None for its own default.

    Raises:
      UserError: where there are no images.
    """
    if re.fullmatch(r"digits(:\w+)?", name):
        return _digits(name.partition(":")[2])
    if name.startswith("tfds:"):
        return _tfds(name, data_dir)
    name = expanded(name)
    if (match := re.fullmatch(r"(.+\.npz)(?::(\w+))?", name, re.IGNORECASE)) and not epath.Path(name).is_dir():
        return _of_arrays(match[1], match[2])
    if epath.Path(name).is_dir():
        prepared = open_by_name(name)
        if prepared is not None:
            return prepared
        paths = images_below(name)
        return of_files(paths, name, _labels(name, paths))
    if not epath.Path(name).exists():
        raise UserError(
            f"--images={name!r} does not exist: give a folder, a text file with paths, tfds:NAME:SPLIT, or digits."
        )
    if name.lower().endswith(readable()):
        return of_files([name], name)
    paths, labels = read_list(name, f"--images={name!r}")
    return of_files(paths, name, labels)


def _labels(folder: str, paths: list[str]) -> list[str] | None:
    """The class folder of each image, below a folder of the split or not; None where images are not in class folders."""
    parts = [os.path.relpath(path, folder).split(os.sep)[:-1] for path in paths]
    if all(part and part[0] in ("train", *TEST_SPLITS) for part in parts):
        parts = [part[1:] for part in parts]
    return [part[0] for part in parts] if all(parts) else None


def _of_arrays(file: str, split: str | None) -> RandomAccess:
    """The images of one split in a file of NumPy arrays, or of all."""
    what = f"--images={file!r}"
    if not epath.Path(file).exists():
        raise UserError(f"{what} does not exist: give a file of NumPy arrays.")
    arrays = Arrays(file, what)
    parts = [arrays.open([name]) for name in ([split] if split else arrays.splits() or TEST_SPLITS[:1])]
    unlabelled = [part for part in parts if part.all_labels is None]
    if unlabelled and len(unlabelled) < len(parts):
        log.warning("%s has no labels, so no labels are used. To use some: --images=%s:SPLIT", unlabelled[0].name, file)
        parts = [dataclasses.replace(part, all_labels=None, class_names=None) for part in parts]
    return functools.reduce(join, parts)


def _digits(split: str) -> RandomAccess:
    from simclr_jax.data.sources.digits import open_digits

    if split not in ("", "train", "test"):
        raise UserError(f"--images=digits:{split}: the splits are train and test.")
    return open_digits(split) if split else join(open_digits("train"), open_digits("test"))


def _tfds(name: str, data_dir: str | None) -> Source:
    # A version may follow the name: tfds:cifar10:3.0.2:test. A split may have a colon in brackets: train[:90%].
    parts = re.fullmatch(r"tfds:([^:\[\]]+(?::\d+\.[\d.*]+)?):(.+)", name)
    if parts is None:
        raise UserError(f"--images={name}: give tfds:NAME:SPLIT, as in tfds:cifar10:test.")
    from simclr_jax.data.sources.tfds import open_tfds

    data = config_lib.pretrain().data
    data.update(source="tfds", name=parts[1], root=data_dir, test_split=parts[2], memory_mib=MEMORY_MIB)
    return open_tfds(data, "test")
