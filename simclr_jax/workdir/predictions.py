"""What an evaluation predicted for each test image, as a file: `predictions.npz` in the folder of a label draw."""

from collections.abc import Sequence
import dataclasses
import io

from etils import epath
import numpy as np

from simclr_jax.runtime import distributed
from simclr_jax.workdir import files

NAME = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of the readable test examples, in the order of the source."""

    index: np.ndarray  # int64 [n]: the number in the source
    label: np.ndarray  # int32 [n]
    predicted: np.ndarray  # int32 [n]
    class_names: list[str]

    def confusion(self) -> np.ndarray:
        """Counts `[classes, classes]`: a row for each true class, a column for each predicted one."""
        classes = len(self.class_names)
        counts = np.bincount(self.label.astype(np.int64) * classes + self.predicted, minlength=classes * classes)
        return counts.reshape(classes, classes)


def write(
    folder: epath.Path, index: np.ndarray, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> None:
    """Writes the file, on the primary process: arrays of `Predictions`."""
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
    """What `write` has written."""
    with np.load(io.BytesIO((folder / NAME).read_bytes())) as saved:
        return Predictions(saved["index"], saved["label"], saved["predicted"], saved["class_names"].tolist())
