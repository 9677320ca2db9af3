"""Import weights that another program has trained, as a workdir that every other command reads.

    python -m simclr_jax.import_weights --source=model.ckpt-250228 --workdir=runs/r50_sk
    python -m simclr_jax.linear_probe --pretrained=runs/r50_sk --workdir=runs/r50_sk_probe ...

The source is a checkpoint of the reference implementation (TF1, TF2, SavedModel; docs/weights.md lists the published ones), or
a PyTorch state dict (.pt, .pth, .ckpt, read without unpickling code, or .safetensors). What it is, and depth, width, selective
kernels, projection head and classes of the network are found from its tensors. Every tensor is used or named as ignored.

Where the source can be run here, it and the imported network run on the same images, and the largest difference is printed.
With a classifier the workdir is one of fine-tuning, otherwise one of pretraining. Writes config.json, checkpoints/, and
import.json: the source, what was ignored, and the differences.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("import_weights")  # answers --help and mistakes before the imports below; does not return


import logging
from typing import Any

from absl import flags
from etils import epath

from simclr_jax.config import fields_of
from simclr_jax.errors import UserError
from simclr_jax.interchange import classifier_input
from simclr_jax.interchange import imported
from simclr_jax.interchange import prove
from simclr_jax.interchange import weights as weights_lib
from simclr_jax.interchange.base import Options
from simclr_jax.interchange.base import Weights
from simclr_jax.interchange.base import WeightSource
from simclr_jax.interchange.source import open_source

log = logging.getLogger("simclr_jax")


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Imports, and returns the content of import.json.

    Raises:
      UserError: for a source that cannot be read, is not known or computes something else; nothing is written then.
    """
    workdir = epath.Path(values.workdir)
    options = _options(values)
    imported.check_workdir(workdir)
    source = open_source(values.source)
    weights = weights_lib.read(source, options)
    theirs = prove.run_source(source, weights)
    where = classifier_input.find(source, weights, values.classifier_input, theirs)
    differences = prove.compare(source, weights, where, theirs)
    place = source.details.get("place")
    record = {
        "source": values.source,
        "what": source.what,
        "layout": place.format.name if place else source.layout,
        "ignored": source.ignored,
        "largest_relative_difference": differences,
    }
    imported.write(weights, where, workdir, record)
    _tell(source, weights, where, differences, workdir)
    return record


def _options(values: flags.FlagValues) -> Options:
    """What the flags say about a PyTorch state dict."""

    def numbers(flag: str) -> tuple[float, ...] | None:
        words = values[flag].value
        if words is None:
            return None
        try:
            found = tuple(float(word) for word in words)
        except ValueError:
            found = ()
        bound = fields_of("pretrain")[f"model.{flag}"].bound
        assert bound is not None
        if not bound.holds(found):
            raise UserError(f"--{flag}={','.join(words)}: should be {bound.text}, as in 0.485,0.456,0.406.")
        return found

    return Options(values.format, values.padding, numbers("input_mean"), numbers("input_std"))


def _tell(
    source: WeightSource, weights: Weights, where: str, differences: dict[str, float], workdir: epath.Path
) -> None:
    model = weights.config.model
    head = f", projection head of {weights.head_layers} layers" if weights.head_layers else ""
    classifier = f", classifier of {weights.classes} classes on {where}" if weights.classes is not None else ""
    kernels = f", selective kernels {model.sk_ratio:g}" if model.sk_ratio else ""
    log.info(
        "Imported %s: a ResNet-%d (%gx)%s, %s stem%s%s; %d tensors used.",
        source.what,
        model.depth,
        model.width,
        kernels,
        model.stem,
        head,
        classifier,
        len(weights.tensors),
    )
    if "place" in source.details:
        log.info(
            "Read as %s: max pool padded as %s, images normalised by mean %s and deviation %s; --format, --padding, "
            "--input_mean and --input_std say otherwise.",
            source.details["place"].format.name,
            model.padding,
            ", ".join(f"{value:g}" for value in model.input_mean),
            ", ".join(f"{value:g}" for value in model.input_std),
        )
    for reason, names in source.ignored.items():
        log.info("Ignored, %s: %d tensors, such as %s.", reason, len(names), names[0])
    if differences:
        shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        log.info("Run on the same images, the source and the import differ by at most (relative): %s.", shown)
    missing = [name for name in _outputs(weights) if name not in differences]
    if missing:
        log.info(
            "Not proven by running: %s. Names and shapes of all tensors are right, and their values finite.",
            ", ".join(missing),
        )
    log.info("The workdir is %s.", workdir)


def _outputs(weights: Weights) -> list[str]:
    z = ["z"] if weights.head_layers else []
    return ["h", *z, *(["logits"] if weights.classes is not None else [])]
