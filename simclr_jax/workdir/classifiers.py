"""The linear classifier of a probe: `classifier.npz` in the folder of each label subset."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import io
import json
import re
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.runtime import distributed
from simclr_jax.runtime import files

NAME = "classifier.npz"


@dataclasses.dataclass(frozen=True)
class SavedClassifier:
    """A linear classifier: the logits of unscaled features x are x @ kernel + bias.

    Attributes:
      kernel: float32 [features, classes].
      bias: float32 [classes]; -inf for a class that had no training example.
      class_names: the names of the classes.
      features: what it classifies: "h", "z", "g1", ...
      l2: the penalty of its training; None for the SGD protocol.
      encoder: the `training.checkpoint.identity` of the encoder that it was fitted on, or the `seed` of an untrained one; None
        where that is not known, as in the files of earlier versions.
    """

    kernel: np.ndarray
    bias: np.ndarray
    class_names: Sequence[str]
    features: str
    l2: float | None = None
    encoder: Mapping[str, Any] | None = None


def write(folder: epath.Path, classifier: SavedClassifier) -> None:
    """Write a classifier to a file in `folder`. Only the primary process writes."""
    if not distributed.is_primary():
        return
    content = io.BytesIO()
    np.savez(
        content,
        kernel=np.asarray(classifier.kernel, np.float32),
        bias=np.asarray(classifier.bias, np.float32),
        class_names=np.array(classifier.class_names, str),
        features=classifier.features,
        l2=np.nan if classifier.l2 is None else classifier.l2,
        encoder=json.dumps(classifier.encoder),
    )
    files.write_atomically(folder / NAME, content.getvalue())


def read(folder: epath.Path) -> SavedClassifier:
    """Read the file that `write` has written to `folder`.

    Raises:
      UserError: where it is damaged.
    """
    path = folder / NAME
    remedy = "the same command of simclr_jax.linear_probe writes it again"
    with files.damage_of(path, remedy), np.load(io.BytesIO(path.read_bytes())) as saved:
        l2 = float(saved["l2"])
        read = SavedClassifier(
            saved["kernel"],
            saved["bias"],
            saved["class_names"].tolist(),
            str(saved["features"]),
            None if np.isnan(l2) else l2,
            json.loads(str(saved["encoder"])) if "encoder" in saved.files else None,
        )
        _check(read)
        return read


def _check(classifier: SavedClassifier) -> None:
    """Raises a ValueError where the parts do not fit each other, or are no numbers."""
    kernel, bias, names = classifier.kernel, classifier.bias, classifier.class_names
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or np.shape(names) != bias.shape:
        shapes = f"kernel {kernel.shape}, bias {bias.shape}, class_names {np.shape(names)}"
        raise ValueError(f"the shapes do not fit each other: {shapes}")
    if not np.isfinite(kernel).all() or np.isnan(bias).any() or np.isposinf(bias).any():
        raise ValueError("it has values that are not finite")
    if not re.fullmatch(r"h|z|g[0-9]+", classifier.features):
        raise ValueError(f"features is {classifier.features!r}, not h, z, g1, ...")
    if not isinstance(classifier.encoder, dict | None):
        raise ValueError(f"encoder is {classifier.encoder!r}, not what tells encoders apart")
