"""The predictions of an evaluation: `predictions.npz` in the folder of each label subset."""

from collections.abc import Sequence
import dataclasses
import io

from etils import epath
import numpy as np

from simclr_jax.runtime import distributed
from simclr_jax.runtime import files

NAME = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for all readable test examples, in the order of the source.

    Attributes:
      index: int64 [n], the number of each example in the source.
      label: int32 [n], the true class.
      predicted: int32 [n], the predicted class.
      class_names: the names of the classes.
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    class_names: list[str]

    def confusion(self) -> np.ndarray:
        """The confusion matrix: counts `[classes, classes]`, with a row for each true class."""
        classes = len(self.class_names)
        counts = np.bincount(self.label.astype(np.int64) * classes + self.predicted, minlength=classes * classes)
        return counts.reshape(classes, classes)


def write(
    folder: epath.Path, index: np.ndarray, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> None:
    """Write the fields of `Predictions` to a file in `folder`. Only the primary process writes."""
    if not distributed.is_primary():
        return
    content = io.BytesIO()
    np.savez_compressed(
        content,
        index=index,
        label=labels.astype(np.int32),
        predicted=predicted.astype(np.int32),
        class_names=np.array(class_names, str),
    )
    files.write_atomically(folder / NAME, content.getvalue())


def read(folder: epath.Path) -> Predictions:
    """Read the file that `write` has written to `folder`.

    Raises:
      UserError: where it is damaged.
    """
    path = folder / NAME
    with (
        files.damage_of(path, "the command of its run writes it again"),
        np.load(io.BytesIO(path.read_bytes())) as saved,
    ):
        read = Predictions(saved["index"], saved["label"], saved["predicted"], saved["class_names"].tolist())
        _check(read)
        return read


def _check(read: Predictions) -> None:
    """Raises a ValueError where the parts do not fit each other."""
    if read.index.ndim != 1 or not read.index.shape == read.label.shape == read.predicted.shape:
        shapes = f"index {read.index.shape}, label {read.label.shape}, predicted {read.predicted.shape}"
        raise ValueError(f"the shapes do not fit each other: {shapes}")
    for classes in (read.label, read.predicted):
        if classes.dtype.kind not in "iu" or (
            classes.size and not 0 <= classes.min() <= classes.max() < len(read.class_names)
        ):
            raise ValueError(f"it has classes that are none of the {len(read.class_names)} with a name")
