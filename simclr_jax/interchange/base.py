"""What an import passes on: the opened source, what the user says about it, and the weights that are read."""

from collections.abc import Callable
import dataclasses
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may say about a PyTorch state dict, which its tensors do not tell; None: as its format has it.

    Attributes:
      format: the program that wrote it, a name in `torch_names.FORMATS`.
      padding: of the max pool, "same" or "torch".
      input_mean, input_std: by which the images were normalised.
    """

    format: str | None = None
    padding: str | None = None
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """Weights from elsewhere.

    Attributes:
      place: for messages.
      layout: "tf1", "tf2" or "torch": how the tensors are named.
      what: the kind of file, for messages.
      shapes: of every tensor, by name.
      read: the tensor of a name.
      ignored: what is no part of the network, by reason: names.
      module: the SavedModel, which can be run; None for other files.
      graph: the file of the TF1 graph (.meta), where there is one.
      details: of a state dict: "place", a `torch_names.Place`, once its weights are read.
      step: after how many training steps it was written, where the file says so.
    """

    place: str
    layout: str
    what: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    ignored: dict[str, list[str]]
    module: Any = None
    graph: epath.Path | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network with its weights.

    Attributes:
      config: of a pretraining run with this network: `model`, `head`, `data.image_size`, `data.eval_crop`.
      classes: of the linear classifier; None where there is none.
      tensors: float32 arrays by our names, such as "encoder/stem_conv/kernel".
      step: after how many training steps they were saved; 0 where the source does not say.
    """

    config: ConfigDict
    classes: int | None
    tensors: dict[str, np.ndarray]
    step: int

    @property
    def head_layers(self) -> int:
        return {"none": 0, "linear": 1, "nonlinear": self.config.head.layers}[self.config.head.kind]


def check_values(place: str, tensors: dict[str, np.ndarray], names: dict[str, str]) -> None:
    """Refuses values that no training leaves behind: of a damaged file, or of a run that diverged."""
    for ours, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"--source={place!r}: {names[ours]} has values that are NaN or infinite.")
        if ours.endswith("/var") and (tensor < 0).any():
            raise UserError(f"--source={place!r}: {names[ours]} is a variance, but has negative values.")
