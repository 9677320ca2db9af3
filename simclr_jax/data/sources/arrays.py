"""Images in a file of NumPy arrays, .npz: as MedMNIST and Keras have them, or what `numpy.savez` made of your own."""

from collections.abc import Sequence
import re
import zipfile

from etils import epath
import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import of_arrays
from simclr_jax.errors import UserError

EXTENSION = ".npz"
DEFAULT_SPLIT = "train"
TEST_SPLITS = ("test", "val", "validation")
# Names of the arrays of a split, of images and of labels: MedMNIST's, Keras', and those without splits.
NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
WITHOUT_SPLITS = ("images", "labels")
CLASS_NAMES = "class_names"


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
        try:
            with epath.Path(file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                self.arrays = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{what} cannot be read as a file of NumPy arrays: {error}") from error

    def splits(self) -> list[str]:
        """The names of the splits that have images, sorted; "train" for arrays without splits."""
        patterns = [re.escape(images).replace(r"\{\}", "(.+)") for images, _ in NAMES]
        matches = [re.fullmatch(pattern, name) for name in self.arrays for pattern in patterns]
        names = {match[1] for match in matches if match}
        return sorted(names | ({DEFAULT_SPLIT} if WITHOUT_SPLITS[0] in self.arrays else set()))

    def open(self, splits: Sequence[str]) -> RandomAccess:
        """The images of the first of some splits that is there, as a source.

        Raises:
          UserError: where none is there, or an array cannot be used.
        """
        choices = [(images.format(name), labels.format(name)) for name in splits for images, labels in NAMES]
        choices += [WITHOUT_SPLITS] * (DEFAULT_SPLIT in splits)
        names = next((names for names in choices if names[0] in self.arrays), None)
        if names is None:
            raise UserError(
                f"{self.what} has no array {' or '.join(images for images, _ in choices)}; it has "
                f"{', '.join(sorted(self.arrays)[:10]) or 'none'}."
            )
        images = _as_images(self.arrays[names[0]], f"{self.what}: {names[0]}")
        labels = self.arrays.get(names[1])
        if labels is not None:
            labels = _as_labels(labels, len(images), f"{self.what}: {names[1]}")
        class_names = None if labels is None else self._class_names(int(labels.max()))
        ids = [f"{names[0]}[{number}]" for number in range(len(images))]  # the same wherever the file is
        return of_arrays(f"{self.file}, {names[0]}", images, labels, class_names, ids)

    def _class_names(self, largest: int) -> list[str]:
        """The names of all classes, the same for all splits. `largest`: a label."""
        if CLASS_NAMES in self.arrays:
            names = [str(name) for name in self.arrays[CLASS_NAMES].reshape(-1)]
            if largest >= len(names):
                raise UserError(f"{self.what} has the label {largest}, but {CLASS_NAMES} has only {len(names)} names.")
            if len(set(names)) < len(names):
                raise UserError(f"{self.what}: {CLASS_NAMES} has a name twice.")
            return names
        all_labels = [array for name, array in self.arrays.items() if re.fullmatch("labels|.+_labels|y_.+", name)]
        number = 1 + max(int(labels.max(initial=0)) for labels in all_labels)
        if number > sum(labels.size for labels in all_labels):
            raise UserError(
                f"{self.what} has the label {number - 1}, more than there are images: number the classes from 0 on."
            )
        digits = len(str(number - 1))
        return [f"{label:0{digits}d}" for label in range(number)]


def _as_images(images: np.ndarray, what: str) -> np.ndarray:
    """uint8 `[n, height, width, 3]`."""
    shape = list(images.shape)
    if images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 1):
        images = np.repeat(images.reshape(*shape[:3], 1), 3, axis=-1)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise UserError(f"{what} has the shape {shape}, but has to be [n, height, width, 3] or [n, height, width].")
    if images.dtype != np.uint8:
        raise UserError(f"{what} is {images.dtype}, but images have to be uint8, 0 to 255.")
    return images


def _as_labels(labels: np.ndarray, number: int, what: str) -> np.ndarray:
    """int32 `[n]`."""
    if labels.shape not in ((number,), (number, 1)):
        raise UserError(
            f"{what} has the shape {list(labels.shape)}, but there are {number} images: [{number}] is right."
        )
    labels = labels.reshape(number)
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(f"{what} has to be whole numbers from 0 on; it is {labels.dtype}, the least {labels.min()}.")
    return labels.astype(np.int32)
