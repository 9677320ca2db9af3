"""The network that an export writes."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.interchange.layers import Skeleton

# Images, float32 `[batch, size, size, 3]` in [0, 1], to named float32 arrays `[batch, ...]`.
Apply = Callable[[jax.Array], dict[str, jax.Array]]
# The bias of a class that had no training example, instead of -infinity: softmax gives it exactly 0 in float32.
NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class ExportedNetwork:
    """An encoder, perhaps with a classifier on h, or on a layer of the projection head.

    Attributes:
      model: `config.model` of its run.
      tensors: float32 arrays by our names, such as "encoder/stem_conv/kernel".
      image_size: in pixels, as it was evaluated.
      apply: computes its outputs: "h", and with a classifier "logits".
      class_names: of the classifier; None without one.
      head_layers: how many layers of the projection head are between h and the classifier.
      head_relu: whether the last of them ends with a ReLU: all layers of a head do, except its own last one.
    """

    model: ConfigDict
    tensors: dict[str, np.ndarray]
    image_size: int
    apply: Apply
    class_names: Sequence[str] | None = None
    head_layers: int = 0
    head_relu: bool = True

    @property
    def never(self) -> list[int]:
        """The classes that had no training example, so that their probability is 0."""
        bias = self.tensors.get("classifier/bias")
        return [] if bias is None else np.flatnonzero(bias <= NEVER).tolist()

    @property
    def skeleton(self) -> Skeleton:
        model = self.model
        return Skeleton(
            model.depth,
            model.stem,
            bool(model.sk_ratio),
            stage1_projection=model.depth >= 50 or model.stage1_projection,
            classifier=self.class_names is not None,
        )

    @property
    def is_stock(self) -> bool:
        """Whether torchvision and timm have this network, so that a plain state dict is enough."""
        model = self.model
        plain = (
            not self.head_layers
            and model.width == 1
            and model.stem == "imagenet"
            and not model.sk_ratio
            and model.padding == "torch"
        )
        return plain and (model.depth in (50, 101, 152) or (model.depth in (18, 34) and not model.stage1_projection))

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs for images, float32 in [0, 1] or uint8."""
        floats = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
        with jax.default_matmul_precision("highest"):
            return jax.device_get(jax.jit(self.apply)(floats))


def example_images(network: ExportedNetwork, dtype: Any) -> np.ndarray:
    """Three random images of the network's size."""
    size = network.image_size
    images = np.random.default_rng(0).integers(0, 256, size=(3, size, size, 3), dtype=np.uint8)
    return images if dtype == np.uint8 else images.astype(np.float32) / np.float32(255)
