"""From a source to weights that our networks take: every tensor is used, or named as ignored."""

import dataclasses

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import infer
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange import tf2_names
from simclr_jax.interchange.source import Options
from simclr_jax.interchange.source import Source

LAYOUTS = {"tf1": tf1_names, "tf2": tf2_names}


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


def read(source: Source, options: Options) -> Weights:
    """Reads all weights of a source.

    Args:
      source: its `ignored` gets the names of heads that are not ours.
      options: for a PyTorch state dict.

    Raises:
      UserError: where they are not those of a network that is known, or not finite; where the file is damaged.
    """
    if source.layout == "torch":
        from simclr_jax.interchange import state_dicts

        return state_dicts.read(source, options)
    for name, value in dataclasses.asdict(options).items():
        if value is not None:
            raise UserError(
                f"--{name} is for PyTorch state dicts, but {source.place} is {source.what} of the reference."
            )
    layout = LAYOUTS[source.layout]
    head, linear_head, classifier = layout.heads(source.shapes)
    candidates = infer.skeletons(head, linear_head, classifier)
    match = infer.match(source.place, source.shapes, candidates, layout.names)
    shapes = {ours: source.shapes[name] for ours, name in match.names.items()}
    config, classes = infer.pretrain_config(source.place, match, shapes)
    tensors = {ours: np.asarray(source.read(name), np.float32) for ours, name in match.names.items()}
    check_values(source.place, tensors, match.names)
    return Weights(config, classes, tensors, source.step)


def check_values(place: str, tensors: dict[str, np.ndarray], names: dict[str, str]) -> None:
    """Refuses values that no training leaves behind: of a damaged file, or of a run that diverged."""
    for ours, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"--source={place!r}: {names[ours]} has values that are NaN or infinite.")
        if ours.endswith("/var") and (tensor < 0).any():
            raise UserError(f"--source={place!r}: {names[ours]} is a variance, but has negative values.")
