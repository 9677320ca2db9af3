"""Use a trained encoder: load it, compute representations, classify.

encoder = simclr_jax.load("runs/photos")
h = encoder.embed("holiday/")         # NumPy [n, encoder.num_features]
"""

from collections.abc import Iterator
import functools
import os
import re
from typing import Any
from typing import NamedTuple

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float
from ml_collections import ConfigDict
from ml_collections import FrozenConfigDict
import numpy as np

from simclr_jax.config import choices
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError
from simclr_jax.evaluation.forward import batches_over
from simclr_jax.evaluation.setup import output_layer
from simclr_jax.inference import images as images_lib
from simclr_jax.inference import network
from simclr_jax.inference import saved as saved_lib
from simclr_jax.inference.network import PROBABILITIES
from simclr_jax.runtime import sharding
from simclr_jax.training import checkpoint
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps

# Numbers of images for which the network is compiled; the last one is for each device. A call is padded to one of them.
SIZES = (1, 8, 32, 128)


class Prediction(NamedTuple):
    """The classification of n images.

    Attributes:
      classes: the name of the most probable class of each image.
      probabilities: float32 [n, classes], in the order of `Encoder.class_names`. They add up to 1, unless the classifier
        was trained on images with several classes.
    """

    classes: list[str]
    probabilities: np.ndarray


class Encoder:
    """A trained encoder. Made by `load`.

    Attributes:
      config: of the run that trained it, or that evaluated it last.
      class_names: of its classifier; None where it has none.
      mesh: the devices that it uses.
      saved: where its weights are, and how its network is built.
    """

    def __init__(self, saved: saved_lib.Saved, config: ConfigDict, variables: tuple[Any, Any], mesh: Mesh):
        self.config, self.class_names, self.mesh = config, saved.class_names, mesh
        self.saved, self._variables = saved, variables
        self._features = "h"

    def __repr__(self) -> str:
        model = self.config.model
        classes = f", {len(self.class_names)} classes" if self.class_names is not None else ""
        return (
            f"Encoder({self.path}: ResNet-{model.depth} ({model.width:g}x), {self.features} of {self.num_features} "
            f"features, images of {self.config.data.image_size} px{classes})"
        )

    @property
    def features(self) -> str:
        """What `encoder(images)` and `embed` return: "h", "z" (the projection head's output) or "g1", "g2", ... (its layers).

        May be set. Raises UserError where there is no such layer.
        """
        return self._features

    @features.setter
    def features(self, features: str) -> None:
        if not isinstance(features, str) or not re.fullmatch(r"h|z|g[1-9]\d*", features):
            raise UserError(f"features are {features!r}, but must be 'h', 'z', or 'g1', 'g2', ...")
        if features != "h":
            if self.saved.head is None:
                raise UserError(
                    f"features are {features!r}, but {self.saved.name} has no projection head: load the workdir of its "
                    "pretraining."
                )
            output_layer(features, self.saved.head)
        self._features = features

    @property
    def num_features(self) -> int:
        """The number of features that `encoder(images)` and `embed` return."""
        return self._layers(self.features).num_features

    @property
    def path(self) -> str:
        """The checkpoint or, of a linear probe, the folder of its label subset."""
        return str(self.saved.path)

    @property
    def class_features(self) -> str:
        """What the classifier is on: "h", "z" or "g1", "g2", ..."""
        return self.saved.class_features

    @property
    def variables(self) -> tuple[Any, Any]:
        """Parameters and BatchNorm statistics, each by part: "encoder", and what there is of "head" and "classifier"."""
        return self._variables

    @property
    def step(self) -> int:
        """The training step of the checkpoint; 0 for an untrained encoder."""
        return checkpoint.step_of(self.saved.checkpoint) if self.saved.checkpoint else 0

    @property
    def origin(self) -> str:
        """The checkpoint that the encoder is from."""
        return str(self.saved.checkpoint or "untrained")

    def __call__(self, images: Float[Array, "n height width 3"]) -> Float[Array, "n features"]:
        """Representations of images that have the right size already.

        Args:
          images: floats in [0, 1], which are not resized or cropped, NumPy or JAX. Any n: it is padded to one of a few
            sizes, and split if it is large, so that the network is compiled only for these. Inside `jax.jit` or `jax.grad`
            the network becomes part of that function.

        Raises:
          UserError: for uint8, another shape, NaN, or values far outside [0, 1]. Values under `jax.jit` cannot be checked.
        """
        images_lib.check_floats(images)
        if isinstance(images, jax.core.Tracer):
            layers = self._layers(self.features)
            return state_lib.merge(layers.graph, *layers.choose(*self._variables))(images)
        parts = []
        for start in range(0, len(images), self._largest):
            part = images[start : start + self._largest]
            padded = self.batch_size(len(part))
            if padded > len(part):
                xp = jnp if isinstance(part, jax.Array) else np
                part = xp.pad(part, ((0, padded - len(part)), (0, 0), (0, 0), (0, 0)))
            output = self._on_floats(self.features)(part)
            parts.append(output[: min(self._largest, len(images) - start)])
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def embed(self, images: Any) -> np.ndarray:
        """Representations of images of any size, prepared exactly as an evaluation prepares them.

        Args:
          images: a path of a file or folder, a PIL image, uint8 pixels `[height, width, 3]`, or an iterable of these; see
            `images.sources_of`.

        Returns:
          float32 `[n, features]`.

        Raises:
          UserError: for an image that cannot be read; it is named.
        """
        return self._run(images, self.features)

    def predict(self, images: Any) -> Prediction:
        """Class names and probabilities of images of any size, given as for `embed`.

        Raises:
          UserError: where there is no classifier, or an image cannot be read.
        """
        self.check_classifier()
        probabilities, names = self._run(images, PROBABILITIES), self.class_names or ()
        return Prediction([names[place] for place in probabilities.argmax(axis=1)], probabilities)

    def check_classifier(self) -> None:
        """A UserError that says how to get a classifier, where there is none."""
        if self.class_names is None:
            raise UserError(
                f"{self.saved.name} has no classifier, only an encoder. Train one on labelled images by "
                "simclr_jax.linear_probe or simclr_jax.finetune, and load the workdir of that run."
            )

    def batch_size(self, number: int) -> int:
        """The number of images that a call with `number` images is padded to."""
        sizes = sorted({sharding.rounded_up(size, self.mesh) for size in SIZES[:-1]} | {self._largest})
        return next((size for size in sizes if size >= number), self._largest)

    def batches(
        self, source: Source, output: str, *, batch_size: int, bad_images: BadImages, start_step: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Runs over a source; `output` is a name of features or `PROBABILITIES`. See `forward.batches_over`."""
        return batches_over(
            self._on_bytes(output),
            *self._layers(output).choose(*self._variables),
            source,
            data=self.config.data,
            batch_size=batch_size,
            mesh=self.mesh,
            bad_images=bad_images,
            start_step=start_step,
        )

    def _run(self, images: Any, output: str) -> np.ndarray:
        parts = [np.zeros([0, self._num_outputs(output)], np.float32)]
        for source in images_lib.sources_of(images):
            bad_images = images_lib.EveryImage(source, 0.0)
            size = self.batch_size(source.num_examples)
            for batch in self.batches(source, output, batch_size=size, bad_images=bad_images):
                parts.append(batch["output"][batch["mask"]])
        return np.concatenate(parts)

    def _num_outputs(self, output: str) -> int:
        return len(self.class_names or ()) if output == PROBABILITIES else self._layers(output).num_features

    @property
    def _largest(self) -> int:
        return SIZES[-1] * self.mesh.size

    def _layers(self, output: str) -> network.Layers:
        return network.layers(self.saved, self.config, output)

    @functools.cache  # noqa: B019 (an encoder keeps its compiled functions as long as it lives)
    def _on_bytes(self, output: str) -> Any:
        return steps.make_forward(self._layers(output).graph, lambda model, images: model(images), self.mesh)

    @functools.cache  # noqa: B019
    def _on_floats(self, output: str) -> Any:
        layers = self._layers(output)
        variables = layers.choose(*self._variables)
        whole, split = sharding.replicated(self.mesh), sharding.batch_sharded(self.mesh)

        def encode(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
            return state_lib.merge(layers.graph, params, batch_stats)(images.astype(jnp.float32))

        jitted = jax.jit(encode, out_shardings=whole)
        return lambda images: jitted(*variables, jax.device_put(images, split))


def load(
    path: epath.PathLike,
    *,
    pretrained: epath.PathLike | None = None,
    compute_dtype: str | None = None,
    mesh: Mesh | None = None,
    flag: str = "",
) -> Encoder:
    """Loads a trained encoder, with its projection head and its classifier where it has them.

    Args:
      path: a workdir of pretraining, linear probe, fine-tuning or distillation; the folder of one label subset in it
        (draw_0); or one checkpoint. Local, or in a bucket (gs://, s3://).
      pretrained: where the encoder of a linear probe is now, if it has moved since.
      compute_dtype: "float32" or "bfloat16", or "float64" where JAX has 64 bits (`jax_enable_x64`). Default: float32 after
        pretraining, as evaluations have it; the run's own after an evaluation.
      mesh: the devices to use. Default: all of this process.
      flag: names the argument in error messages.

    Raises:
      UserError: where there is no encoder, or there are several; it says what to do.
    """
    for name, given in (("the path", path), ("pretrained", pretrained or "unset")):
        if not isinstance(given, str | os.PathLike) or not os.fspath(given):
            raise UserError(
                f"{name} is {given!r}, but must be the workdir of a run or one checkpoint, as in 'runs/photos'."
            )
    saved = saved_lib.find(path, pretrained, flag)
    config = saved.config.copy_and_resolve_references()
    config.remat = "none"
    if compute_dtype is None:
        compute_dtype = "float32" if config.kind == "pretrain" else config.compute_dtype
    if compute_dtype not in choices.DTYPES:
        raise UserError(f"compute_dtype is {compute_dtype!r}, but must be one of {', '.join(choices.DTYPES)}.")
    if compute_dtype == "float64" and jnp.result_type(float) != jnp.float64:  # it would be float32, with warnings
        raise UserError(
            "compute_dtype is 'float64', but JAX has 32 bits here: take float32, or call "
            "jax.config.update('jax_enable_x64', True) before anything else."
        )
    config.compute_dtype = compute_dtype
    if config.model.sk_ratio is None:
        config.model.sk_ratio = 0.0
    if mesh is None:
        mesh = sharding.make_mesh(ConfigDict({"data": -1, "fsdp": 1}), jax.local_devices())
    frozen = FrozenConfigDict(config)
    return Encoder(saved, frozen, network.read_variables(saved, frozen, mesh), mesh)
