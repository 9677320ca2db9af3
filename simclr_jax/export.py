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

A model card, README.md in the layout of the Hugging Face Hub, describes the data, the config, the results of evaluations in
folders beside the run, and how to load the encoder; beside a single file it is OUTPUT.README.md.

    python -m simclr_jax.export --pretrained=runs/photos --format=safetensors --output=photos_torch \\
        --push_to_hub=me/photos --private --license=cc-by-4.0

also uploads the export, with a workdir that `simclr_jax.load("hf://me/photos")` and --pretrained=hf://me/photos read.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("export")  # answers --help and mistakes before the imports below; does not return

from collections.abc import Callable
import dataclasses
import logging
import shutil
import tempfile
from typing import Any

from absl import flags
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.evaluation.setup import output_layer
from simclr_jax.inference import encoder as encoder_lib
from simclr_jax.inference import network as network_lib
from simclr_jax.inference import published
from simclr_jax.inference.encoder import Encoder
from simclr_jax.interchange import onnx_graph
from simclr_jax.interchange import programs
from simclr_jax.interchange import prove
from simclr_jax.interchange import snippets
from simclr_jax.interchange import torch_files
from simclr_jax.interchange.exported import NEVER
from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.interchange.exported import example_images
from simclr_jax.interchange.infer import flatten
from simclr_jax.runtime import files
from simclr_jax.runtime import hub
from simclr_jax.training import state as state_lib

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
      UserError: where there is no encoder, a format cannot hold the network, what was written computes something else, or
        the Hub refuses it.
    """
    files.check_writable(epath.Path(values.output), "--output")
    # In full precision, as the formats compute: the run itself may have used bfloat16.
    encoder = encoder_lib.load(values.pretrained, compute_dtype="float32", flag="--pretrained")
    network = network_of(encoder)
    output, form = epath.Path(values.output), FORMATS[values.format]
    about = _about(values, encoder, network)
    if values.push_to_hub:
        front_matter = f"---\n{published.front_matter(encoder, about)}---\n"
        hub.prepare(values.push_to_hub, private=values.private, overwrite=values.overwrite, card=front_matter)
    dtype = np.uint8 if values.input == "uint8" else np.float32
    partial = output.parent / f".{output.name}.partial"
    with files.removed_on_error(partial):
        form.write(network, dtype, partial)
        differences = _compare(network, form, partial, dtype)
        proof = ", ".join(f"{name} differs by {value:.1e} of its largest value" for name, value in differences.items())
        checked = f"When it was written, it was run beside the network of simclr_jax: {proof}." if proof else ""
        card = published.card(encoder, dataclasses.replace(about, proof=checked))
        if partial.is_dir():
            (partial / "README.md").write_text(card)
        files.remove(output)
        partial.rename(output)
    if not output.is_dir():
        (output.parent / f"{output.name}.README.md").write_text(card)
    if network.never:
        text = (
            "The bias of classes without a training example is %g instead of -infinity, so their probability is 0: %s."
        )
        log.info(text, NEVER, _named(network))
    proof = proof or "the tensors were read back; to run it, PyTorch is needed here"
    log.info("%s: %s of %s. Checked: %s.", output, values.format, encoder.origin, proof)
    if values.push_to_hub:
        _push(encoder, output, card, values.push_to_hub)
    return differences


def _named(network: ExportedNetwork) -> str:
    names = [str((network.class_names or ())[place]) for place in network.never]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _about(values: flags.FlagValues, encoder: Encoder, network: ExportedNetwork) -> published.Export:
    """What the model card says about the export."""
    repository, output = values.push_to_hub, epath.Path(values.output)
    return published.Export(
        name=repository.partition("/")[2] if repository else output.name,
        place=f"{hub.SCHEME}{repository}" if repository else values.pretrained,
        format=values.format,
        snippet=snippets.snippet(network, values.format, output.name if repository else str(output), repository),
        input=f"{snippets.input_of(values.format, values.input)} {_preparation(encoder)}",
        license=values.license,
    )


def _preparation(encoder: Encoder) -> str:
    """How images have to be cut and resized for the embeddings of `Encoder.embed`."""
    data = encoder.config.data
    part = "" if data.eval_crop == 1 else f"{data.eval_crop:g} of "
    return (
        f"They are the central square of an image, as wide as {part}its shorter side, resized to {data.image_size} px: bicubic "
        "without antialiasing, as `tf.image.resize(image, size, 'bicubic')`. Resized otherwise, they give other outputs."
    )


def _push(encoder: Encoder, output: epath.Path, card: str, repository: str) -> None:
    """Uploads the export together with a workdir. The export is on disk already and stays there."""
    log.info("Uploading to %s%s.", hub.SCHEME, repository)
    with tempfile.TemporaryDirectory() as name:
        folder = epath.Path(name)
        if output.is_dir():
            shutil.copytree(output, folder, dirs_exist_ok=True)
        else:
            shutil.copy(output, folder / output.name)
        (folder / "README.md").write_text(card)
        published.write_workdir(encoder, folder)
        url = hub.push(repository, name, f"Export of step {encoder.step} by simclr_jax")
    log.info("Uploaded: %s. Use it: simclr_jax.load(%r).", url, f"{hub.SCHEME}{repository}")


def network_of(encoder: Encoder) -> ExportedNetwork:
    """What an export needs of a loaded encoder: of the projection head only the layers below its classifier."""
    config, head, features = encoder.config, encoder.saved.head, encoder.class_features
    classifies = encoder.class_names is not None
    layers = network_lib.layers(encoder.saved, config, features if classifies else "h")
    params, stats = jax.device_get(layers.choose(*encoder.variables))
    classifier = jax.device_get(encoder.variables[0]["classifier"]) if classifies else None
    if classifier is not None:
        classifier = classifier | {"bias": np.maximum(classifier["bias"], np.float32(NEVER))}

    def apply(images: jax.Array) -> dict[str, jax.Array]:
        model: Any = state_lib.merge(layers.graph, *jax.tree.map(jnp.asarray, (params, stats)))
        h = model.encoder(images, train=False)
        if classifier is None:
            return {"h": h}
        below = model.head(h, train=False) if hasattr(model, "head") else h
        return {"h": h, "logits": below @ jnp.asarray(classifier["kernel"]) + jnp.asarray(classifier["bias"])}

    of_head = used = 0
    if "head" in params and head is not None:
        of_head = {"none": 0, "linear": 1, "nonlinear": head.layers}[head.kind]
        used = output_layer(features, head) or of_head
    tensors = {name: np.asarray(leaf) for tree in (params, stats) for name, leaf in flatten(tree).items()}
    if classifier is not None:
        tensors |= {f"classifier/{name}": np.asarray(value) for name, value in classifier.items()}
    return ExportedNetwork(
        config.model,
        tensors,
        config.data.image_size,
        apply,
        encoder.class_names,
        head_layers=used,
        head_relu=used < of_head,
    )


def _compare(network: ExportedNetwork, form: Format, path: epath.Path, dtype: Any) -> dict[str, float]:
    """The largest relative difference of each output of what was written; of logits for the classes that can be predicted.

    Raises:
      UserError: if one is above the tolerance, or a class without training examples can be predicted.
    """
    images = example_images(network, dtype)
    theirs = form.run(network, path, images)
    if theirs is None:
        return {}
    ours, never = network.outputs(images), network.never
    found: dict[str, float] = {}
    for name, value in theirs.items():
        classes = never if name == "logits" else []
        if (value[:, classes] > NEVER / 2).any():
            raise UserError(f"what was written predicts classes that had no training example: {_named(network)}.")
        found[name] = prove.difference(np.delete(value, classes, axis=1), np.delete(ours[name], classes, axis=1))
    for name, size in found.items():
        if not size <= prove.TOLERANCE:
            raise UserError(f"{name} of what was written differs by {size:.1e} of its largest value: nothing is kept.")
    return found
