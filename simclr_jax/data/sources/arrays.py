"""Images in a file of NumPy arrays, .npz: as MedMNIST and Keras have them, or what `numpy.savez` made of your own."""

from collections.abc import Sequence
import io
import logging
import re
import zipfile

import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import of_arrays
from simclr_jax.data.sources.files import read_file
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")

EXTENSION = ".npz"
DEFAULT_SPLIT = "train"
TEST_SPLITS = ("test", "val", "validation")
# Names of the arrays of a split, of images and of labels: MedMNIST's, Keras', and those without splits.
NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
WITHOUT_SPLITS = ("images", "labels")
CLASS_NAMES = "class_names"
LIKE_LABELS = "labels|.+_labels|y_.+"
# Many more than anybody has; a label above is a mistake.
MOST_CLASSES = 1_000_000


class Arrays:
    """A file of arrays, all of it in memory.

    The arrays are `train_images` and `train_labels`, `test_images` and so on; or `x_train` and `y_train`. `images` and
    `labels` alone are training images. Images are uint8 `[n, height, width, 3]`, or grey `[n, height, width]` with or without
    a last axis of 1; labels, which may be missing, are whole numbers from 0 on, `[n]` or `[n, 1]`. The classes are named by
    their numbers, or by an array `class_names`.

    Args:
      file: its path, also in a bucket.
      what: names it in messages, as in "--images='images.npz'".

    Raises:
      UserError: where it cannot be read.
    """

    def __init__(self, file: str, what: str):
        self.file, self.what = file, what
        content = io.BytesIO(read_file(file, what))
        if not zipfile.is_zipfile(content):
            raise UserError(f"{what} is no file of NumPy arrays: it is not what numpy.savez writes.")
        try:
            with np.load(content, allow_pickle=False) as arrays:
                self.arrays = {name: np.asarray(arrays[name]) for name in arrays.files}
        except Exception as error:  # each kind of damage raises another type
            objects = "allow_pickle" in str(error)
            reason = "it has an array of Python objects; save texts with dtype=str" if objects else error
            raise UserError(f"{what} cannot be read as a file of NumPy arrays: {reason}") from error

    def splits(self) -> list[str]:
        """The names of the splits that have images, sorted; "train" for arrays without splits."""
        patterns = [re.escape(images).replace(r"\{\}", "(.+)") for images, _ in NAMES]
        matches = [re.fullmatch(pattern, name) for name in self.arrays for pattern in patterns]
        names = {match[1] for match in matches if match}
        return sorted(names | ({DEFAULT_SPLIT} if WITHOUT_SPLITS[0] in self.arrays else set()))

    def open(self, splits: Sequence[str]) -> RandomAccess:
        """The images of the first of some splits that is there, as a source.

        Raises:
          UserError: where none is there, one is there under two names, or an array cannot be used.
        """
        choices = [names for name in splits for names in _names_of(name)]
        names = next((names for names in choices if names[0] in self.arrays), None)
        if names is None:
            raise UserError(
                f"{self.what} has no array {' or '.join(images for images, _ in choices)}; it has "
                f"{', '.join(sorted(self.arrays)[:10]) or 'none'}."
            )
        self._check_one_name(names, splits)
        images = _as_images(self.arrays[names[0]], f"{self.what}: {names[0]}")
        labels = self._labels(names)
        if labels is None:
            unused = sorted(name for name in self.arrays if re.fullmatch(LIKE_LABELS, name))
            if unused:
                log.warning("%s has no array %s; %s is not used.", self.what, names[1], " or ".join(unused))
        class_names = None if labels is None else self._class_names(int(labels.max()))
        ids = [f"{names[0]}[{number}]" for number in range(len(images))]  # the same wherever the file is
        return of_arrays(f"{self.file}, {names[0]}", images, labels, class_names, ids)

    def _check_one_name(self, names: tuple[str, str], splits: Sequence[str]) -> None:
        """Refuses a split whose images or labels are there under two names: which ones are meant is not known."""
        split = next((name for name in splits if names in _names_of(name)), DEFAULT_SPLIT)
        for place in range(2):
            there = [names[place] for names in _names_of(split) if names[place] in self.arrays]
            if names[place] in self.arrays and len(there) > 1:
                raise UserError(
                    f"{self.what} has the arrays {' and '.join(there)}, which mean the same: leave one out."
                )

    def _labels(self, names: tuple[str, str]) -> np.ndarray | None:
        """The labels of a split, given the names of its two arrays."""
        if names[1] not in self.arrays:
            return None
        return _as_labels(self.arrays[names[1]], len(self.arrays[names[0]]), f"{self.what}: {names[1]}")

    def _class_names(self, largest: int) -> list[str]:
        """The names of all classes, the same for all splits. `largest`: a label."""
        if CLASS_NAMES in self.arrays:
            given = self.arrays[CLASS_NAMES].reshape(-1)
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in given.tolist()]
            if largest >= len(names):
                raise UserError(f"{self.what} has the label {largest}, but {CLASS_NAMES} has only {len(names)} names.")
            if len(set(names)) < len(names):
                raise UserError(f"{self.what}: {CLASS_NAMES} has a name twice.")
            return names
        splits = [names for split in self.splits() for names in _names_of(split) if names[0] in self.arrays]
        all_labels = [labels for names in splits if (labels := self._labels(names)) is not None]
        number = 1 + max(int(labels.max(initial=0)) for labels in all_labels)
        if number > sum(labels.size for labels in all_labels):
            raise UserError(
                f"{self.what} has the label {number - 1}, more than there are images: number the classes from 0 on."
            )
        digits = len(str(number - 1))
        return [f"{label:0{digits}d}" for label in range(number)]


def _names_of(split: str) -> list[tuple[str, str]]:
    """The names that the arrays of a split may have, of images and labels."""
    names = [(images.format(split), labels.format(split)) for images, labels in NAMES]
    return names + [WITHOUT_SPLITS] * (split == DEFAULT_SPLIT)


def _as_images(images: np.ndarray, what: str) -> np.ndarray:
    """uint8 `[n, height, width, 3]`."""
    shape = list(images.shape)
    if images.ndim == 3 and shape[-1] == 3:
        raise UserError(f"{what} has the shape {shape}, a single image: {[1, *shape]} is right.")
    if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 1):
        images = np.repeat(images.reshape(*shape[:3], 1), 3, axis=-1)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{what} has the shape {shape}, but has to be [n, height, width, 3] or [n, height, width].")
    if 0 in images.shape:
        raise UserError(f"{what} has the shape {shape}: there are no images in it.")
    if images.dtype != np.uint8:
        floats = "; floats in [0, 1] become that by (255 * images).round().astype(numpy.uint8)"
        raise UserError(
            f"{what} is {images.dtype}, but images have to be uint8, 0 to 255{floats * (images.dtype.kind == 'f')}."
        )
    return images


def _as_labels(labels: np.ndarray, number: int, what: str) -> np.ndarray:
    """int32 `[n]`."""
    if labels.shape not in ((number,), (number, 1)):
        one_hot = f" One-hot labels become that by {what.split()[-1]}.argmax(axis=1)." * (labels.ndim == 2)
        raise UserError(
            f"{what} has the shape {list(labels.shape)}, but there are {number} images: [{number}] is right.{one_hot}"
        )
    labels = labels.reshape(number)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{what} has to be whole numbers from 0 on, but is {labels.dtype}.")
    if labels.size and (labels.min() < 0 or labels.max() >= MOST_CLASSES):
        raise UserError(
            f"{what} has to be whole numbers from 0 on, but goes from {labels.min()} to {labels.max()}: number the classes."
        )
    return labels.astype(np.int32)
