"""Write an encoder, with its classifier where it has one, for other programs.

    python -m simclr_jax.export --pretrained=runs/photos --format=safetensors --output=photos_torch      # for PyTorch
    python -m simclr_jax.export --pretrained=runs/photos --format=onnx --output=photos.onnx --input=uint8
    python -m simclr_jax.export --pretrained=runs/photos_1pct/draw_0 --format=savedmodel --output=photos_tf

Formats:

    safetensors  a folder with model.safetensors, with torchvision's names; and where torchvision has no such network,
                 simclr_resnet.py, a module of PyTorch that computes the same
    pytorch      the same with model.pth, by torch.save
    timm         a folder that timm.create_model("local-dir:FOLDER") loads, if timm has this network
    onnx         one file, any batch, height and width; images [batch, height, width, 3]
    stablehlo    one file for jax.export.deserialize, any batch, on CPU, CUDA and TPU
    savedmodel   a folder for tf.saved_model.load, any batch

Images are float32 in [0, 1], or uint8. The outputs are h and, with a classifier, logits. The command reads back what it wrote,
runs it on images beside the network here, and prints the largest relative difference. Above 1e-4 it keeps nothing.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("export")  # answers --help and mistakes before the imports below; does not return

from collections.abc import Callable
import dataclasses
import logging
from typing import Any

from absl import flags
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.inference import encoder as encoder_lib
from simclr_jax.inference.encoder import Encoder
from simclr_jax.interchange import onnx_graph
from simclr_jax.interchange import programs
from simclr_jax.interchange import prove
from simclr_jax.interchange import torch_files
from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.interchange.exported import example_images
from simclr_jax.interchange.infer import flatten
from simclr_jax.models.networks import make_encoder
from simclr_jax.training import state as state_lib
from simclr_jax.workdir import files

log = logging.getLogger("simclr_jax")

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Format:
    """How to write a network to a path, and how to run what was written on images; None: it cannot be run here."""

    write: Callable[[ExportedNetwork, Any, epath.Path], None]
    run: Callable[[ExportedNetwork, epath.Path, np.ndarray], Outputs | None]


FORMATS = {
    "safetensors": Format(lambda network, _, path: torch_files.write_safetensors(network, path), torch_files.run),
    "pytorch": Format(lambda network, _, path: torch_files.write_pytorch(network, path), torch_files.run),
    "timm": Format(lambda network, _, path: torch_files.write_timm(network, path), torch_files.run),
    "onnx": Format(onnx_graph.write, lambda _, path, images: onnx_graph.run(path, images)),
    "stablehlo": Format(programs.write_stablehlo, lambda _, path, images: programs.run_stablehlo(path, images)),
    "savedmodel": Format(programs.write_saved_model, lambda _, path, images: programs.run_saved_model(path, images)),
}


def run(values: flags.FlagValues) -> dict[str, float]:
    """Exports as a command line says. Returns the largest relative difference of each output; empty where nothing could run.

    Raises:
      UserError: where there is no encoder, a format cannot hold the network, or what was written computes something else.
    """
    encoder = encoder_lib.load(values.pretrained, flag="--pretrained")
    network = network_of(encoder)
    output, form = epath.Path(values.output), FORMATS[values.format]
    dtype = np.uint8 if values.input == "uint8" else np.float32
    partial = output.parent / f".{output.name}.partial"
    with files.removed_on_error(partial):
        form.write(network, dtype, partial)
        differences = _compare(network, form, partial, dtype)
        files.remove(output)
        partial.rename(output)
    proof = ", ".join(f"{name} differs by {value:.1e} of its largest value" for name, value in differences.items())
    proof = proof or "the tensors were read back; to run it, PyTorch is needed here"
    log.info("%s: %s of %s. Checked: %s.", output, values.format, encoder.origin, proof)
    return differences


def network_of(encoder: Encoder) -> ExportedNetwork:
    """What an export needs of a loaded encoder.

    Raises:
      UserError: if its classifier is on a layer of the projection head, which the formats do not hold.
    """
    if encoder.class_names is not None and encoder.class_features != "h":
        raise UserError(
            f"--pretrained: the classifier of {encoder.path} is on {encoder.class_features}, a layer of the projection head. "
            "Only encoders, and classifiers on h, can be exported."
        )
    parts = ["encoder", *(["classifier"] if encoder.class_names is not None else [])]
    params, stats = (jax.device_get({name: tree[name] for name in parts if name in tree}) for tree in encoder.variables)
    config = encoder.config

    def make_encoder_alone(rngs: Any) -> Any:
        return make_encoder(config, rngs)

    graph = state_lib.graph_of(make_encoder_alone)

    def apply(images: jax.Array) -> dict[str, jax.Array]:
        weights, statistics = jax.tree.map(jnp.asarray, (params, stats))
        h = state_lib.merge(graph, weights["encoder"], statistics["encoder"])(images, train=False)
        if "classifier" not in weights:
            return {"h": h}
        return {"h": h, "logits": h @ weights["classifier"]["kernel"] + weights["classifier"]["bias"]}

    tensors = {name: np.asarray(leaf) for tree in (params, stats) for name, leaf in flatten(tree).items()}
    return ExportedNetwork(config.model, tensors, config.data.image_size, apply, encoder.class_names)


def _compare(network: ExportedNetwork, form: Format, path: epath.Path, dtype: Any) -> dict[str, float]:
    """The largest relative difference of each output of what was written.

    Raises:
      UserError: if one is above the tolerance.
    """
    images = example_images(network, dtype)
    theirs = form.run(network, path, images)
    if theirs is None:
        return {}
    ours = network.outputs(images)
    found = {name: prove.difference(value, ours[name]) for name, value in theirs.items()}
    for name, value in found.items():
        if not value <= prove.TOLERANCE:
            raise UserError(f"{name} of what was written differs by {value:.1e} of its largest value: nothing is kept.")
    return found
