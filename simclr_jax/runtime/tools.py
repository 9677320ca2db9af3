"""The flags of the commands that are no runs: they have no workdir with a config of their kind."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import math
import pathlib
import re

from absl import flags
from etils import epath

from simclr_jax.config.choices import EXPORT_FORMATS
from simclr_jax.config.choices import FILE_FORMATS
from simclr_jax.config.choices import PADDINGS
from simclr_jax.config.choices import TORCH_FORMATS
from simclr_jax.config.choices import WEIGHT_FORMATS
from simclr_jax.errors import UserError
from simclr_jax.runtime import earlier_output
from simclr_jax.runtime import extras
from simclr_jax.runtime import hub
from simclr_jax.runtime import planning_flags
from simclr_jax.runtime import prepare_flags
from simclr_jax.runtime.flags import check_exists
from simclr_jax.runtime.flags import check_folder
from simclr_jax.runtime.flags import check_new
from simclr_jax.runtime.flags import define_processes
from simclr_jax.runtime.flags import parse


@dataclasses.dataclass(frozen=True)
class Tool:
    """A command that is no run.

    Attributes:
      define: defines its flags: (command line, flags).
      required: flags that have to be given, each with a value for the message.
      config: whether --config, of pretraining, is one of its flags.
      positional: the flag that a word without dashes is the value of.
      check: refuses values that do not suit, before anything expensive is imported.
      processes: whether it runs as several processes, with the flags of `define_processes`.
    """

    define: Callable[[Sequence[str], flags.FlagValues], None]
    required: dict[str, str]
    config: bool = False
    positional: str | None = None
    check: Callable[[flags.FlagValues], None] | None = None
    processes: bool = False


def _define_report(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "A folder with runs in it, at any depth. May be repeated; commas separate folders too."
    flags.DEFINE_multi_string("workdirs", [], text, flag_values=values)
    flags.DEFINE_string("output", "report.html", "The file to write.", flag_values=values)
    flags.DEFINE_string("title", None, "Heading. Default: the workdirs.", flag_values=values)


def _define_quickstart(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    flags.DEFINE_string("workdir", "runs/quickstart", "Folder for all runs and the report.", flag_values=values)


def _define_search(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    flags.DEFINE_string("embeddings", None, "The table that simclr_jax.embed has written.", flag_values=values)
    text = "An image of the table, by its path or the end of it: find the images nearest to it. May be repeated."
    flags.DEFINE_multi_string("nearest", [], text, flag_values=values)
    text = "Find groups of images that are at least as similar as this, such as 0.97; 1: equal ones."
    flags.DEFINE_float("duplicates", None, text, lower_bound=-1, upper_bound=1, flag_values=values)
    text = "Divide the images into this many clusters, each with its most typical images."
    flags.DEFINE_integer("clusters", None, text, lower_bound=1, flag_values=values)
    text = "Images to list for each of --nearest, or for each cluster."
    flags.DEFINE_integer("count", 20, text, lower_bound=1, flag_values=values)
    flags.DEFINE_string("output", None, "The file to write: .html with pictures, or .csv.", flag_values=values)
    text = "The folder that relative paths in the table begin in, for the pictures."
    flags.DEFINE_string("images", None, text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace --output if it exists.", flag_values=values)


def _check_search(values: flags.FlagValues) -> None:
    given = [flag for flag in ("nearest", "duplicates", "clusters") if values[flag].value not in ([], None)]
    if len(given) != 1:
        names = " and ".join(f"--{flag}" for flag in given) or "none of them"
        raise UserError(f"give one of --nearest, --duplicates and --clusters, not {names}.")
    if values["duplicates"].value is not None and math.isnan(values["duplicates"].value):
        raise UserError("--duplicates=nan: give a similarity from -1 to 1, such as 0.97.")


def _define_import_weights(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "SavedModel, TensorFlow checkpoint, .safetensors, .pt, .pth or .ckpt file; also gs://BUCKET/..."
    flags.DEFINE_string("source", None, text, flag_values=values)
    flags.DEFINE_string("workdir", None, "A new folder for the imported run.", flag_values=values)
    text = "The program that wrote a PyTorch state dict. Default: found from its names."
    flags.DEFINE_enum("format", None, WEIGHT_FORMATS, text, flag_values=values)
    text = "Of the max pool of a PyTorch state dict: as PyTorch pads, or as the reference. Default: torch."
    flags.DEFINE_enum("padding", None, PADDINGS, text, flag_values=values)
    for name, what in (("mean", "Mean"), ("std", "Standard deviation")):
        text = f"{what} by which a PyTorch network's images were normalised, as in 0.5,0.5,0.5. Default: as its format does."
        flags.DEFINE_list(f"input_{name}", None, text, flag_values=values)
    text = "On what the classifier is: h, z, or g1, g2, ... for a layer of the projection head. Default: found, where possible."
    flags.DEFINE_string("classifier_input", None, text, flag_values=values)


def _define_use(values: flags.FlagValues, formats: str) -> None:
    """The flags of the commands that use an encoder on images and write a table."""
    text = (
        "A folder with images at any depth; a text file with the path of an image in each line, and perhaps its label after a "
        "tab; a split that simclr_jax.prepare has written, as records/train; tfds:NAME:SPLIT; or digits."
    )
    flags.DEFINE_string("images", None, text, flag_values=values)
    flags.DEFINE_string("output", None, f"The file to write: {formats}. Also gs://BUCKET/...", flag_values=values)
    text = "Replace the output, if it exists, and discard an unfinished one that was begun without this flag."
    flags.DEFINE_bool("overwrite", False, text, flag_values=values)
    text = "Images that cannot be read are left out (skip), or have a row without values (null)."
    flags.DEFINE_enum("unreadable", "skip", ["skip", "null"], text, flag_values=values)
    text = "Images at once, over all devices and hosts. It changes the speed only."
    flags.DEFINE_integer("batch_size", 256, text, lower_bound=1, flag_values=values)
    text = "float32 or bfloat16. Default: float32, as evaluations of a pretrained encoder have it; of a classifier its own."
    flags.DEFINE_enum("compute_dtype", None, ["float32", "bfloat16"], text, flag_values=values)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets. Default: TFDS's own.", flag_values=values)
    text = "Where compiled programs are kept for a faster start. Default: nowhere."
    flags.DEFINE_string("compilation_cache", "", text, flag_values=values)
    define_processes(values)


def _define_embed(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "Workdir of a run, or one checkpoint: of pretraining, linear_probe, finetune or distill."
    flags.DEFINE_string("pretrained", None, text, flag_values=values)
    text = "h, the representation; z, the output of the projection head; g1, g2, ..., its layers."
    flags.DEFINE_string("features", "h", text, flag_values=values)
    _define_use(values, ".parquet, .npz or .csv")


def _define_predict(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "Workdir of finetune, linear_probe or distill, the folder of one label subset in it, or one checkpoint."
    flags.DEFINE_string("finetuned", None, text, flag_values=values)
    _define_use(values, ".csv or .parquet")


def _define_verdict(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "Workdir of a pretraining run, or one checkpoint in it."
    flags.DEFINE_string("pretrained", None, text, flag_values=values)
    text = (
        "A folder with images at any depth; a text file with the path of an image in each line; tfds:NAME:SPLIT; or digits. "
        "Default: the images that the run was pretrained on."
    )
    flags.DEFINE_string("images", None, text, flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder for verdict.json. Default: the run's workdir.", flag_values=values)
    text = "How many of the images. Results of different numbers cannot be compared."
    flags.DEFINE_integer("count", 1000, text, lower_bound=1, flag_values=values)
    text = "How many of them for the table of augmentations; 0: no table."
    flags.DEFINE_integer("op_images", 256, text, lower_bound=0, flag_values=values)
    text = "Views at once, over all devices. It changes the speed only."
    flags.DEFINE_integer("batch_size", 256, text, lower_bound=1, flag_values=values)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets. Default: TFDS's own.", flag_values=values)
    text = "Where compiled programs are kept for a faster start. Default: nowhere."
    flags.DEFINE_string("compilation_cache", "", text, flag_values=values)


def _check_verdict(values: flags.FlagValues) -> None:
    check_exists("pretrained", values["pretrained"].value)


def _check_use(values: flags.FlagValues, place: str, endings: Sequence[str]) -> None:
    check_exists(place, values[place].value)
    output = str(values["output"].value)
    ending = pathlib.PurePosixPath(output).suffix.lower()
    if ending not in endings:
        raise UserError(f"--output={output}: the name of the file has to end with {' or '.join(endings)}.")
    if ending == ".parquet":
        extras.check("pyarrow", f"--output={output} needs pyarrow", "embed", ". Or write a .csv file.")
    if "://" not in output:
        if pathlib.Path(output).is_dir():
            raise UserError(f"--output={output} is a folder, but has to be a file.")
        check_new(output, bool(values["overwrite"].value))
        earlier_output.check_file(epath.Path(output), "embed" if place == "pretrained" else "predict")


def _check_embed(values: flags.FlagValues) -> None:
    features = str(values["features"].value)
    if not re.fullmatch(r"h|z|g[1-9]\d*", features):
        raise UserError(f"--features={features}: give h, z, or g1, g2, ... for a layer of the projection head.")
    _check_use(values, "pretrained", (".parquet", ".npz", ".csv"))


def _check_predict(values: flags.FlagValues) -> None:
    _check_use(values, "finetuned", (".csv", ".parquet"))


def _define_export(argv: Sequence[str], values: flags.FlagValues) -> None:
    del argv
    text = "Workdir of a run, or one checkpoint: of pretraining, linear_probe, finetune, distill or import_weights."
    flags.DEFINE_string("pretrained", None, text, flag_values=values)
    flags.DEFINE_enum("format", None, EXPORT_FORMATS, "What to write; see above.", flag_values=values)
    flags.DEFINE_string("output", None, "The file or folder to write.", flag_values=values)
    text = "Images as float32 in [0, 1] or as uint8. The files for PyTorch take floats."
    flags.DEFINE_enum("input", "float", ["float", "uint8"], text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace the output, and what the repository has.", flag_values=values)
    text = "USER/NAME, a repository of the Hugging Face Hub: upload the export and a workdir there."
    flags.DEFINE_string("push_to_hub", None, text, flag_values=values)
    flags.DEFINE_bool("private", False, "Make the repository private.", flag_values=values)
    text = "Of the weights, for the model card: an identifier of the Hub, such as apache-2.0 or cc-by-4.0."
    flags.DEFINE_string("license", None, text, flag_values=values)


def _check_export(values: flags.FlagValues) -> None:
    check_exists("pretrained", values["pretrained"].value)
    output, form = str(values["output"].value), str(values["format"].value)
    if "://" in output:
        raise UserError(f"--output={output}: write to a local folder, then copy it.")
    check_new(output, bool(values["overwrite"].value))
    if form in FILE_FORMATS:
        check_new(earlier_output.card_of(output, form), bool(values["overwrite"].value))
    earlier_output.check_export(output, form)
    _check_push(values)
    if values["input"].value == "uint8" and form in TORCH_FORMATS:
        raise UserError(f"--input=uint8: --format={form} holds weights, and its network takes floats in [0, 1].")
    packages = {"safetensors": "safetensors", "timm": "safetensors", "pytorch": "torch", "onnx": "onnx"}
    package = packages.get(form, "orbax.export" if form == "savedmodel" else "jax")
    extra = {"safetensors": "weights", "torch": "torch"}.get(package, "export")
    extras.check(package, f"--format={form} needs {package}, which is not installed", extra)


def _check_push(values: flags.FlagValues) -> None:
    repository, licence = values["push_to_hub"].value, values["license"].value
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise UserError(
            f"--license={licence}: give an identifier of the Hub, such as apache-2.0, mit, cc-by-4.0 or other."
        )
    if repository is None:
        if values["private"].value:
            raise UserError("--private is for --push_to_hub=USER/NAME, which is not given.")
        return
    what = f"--push_to_hub={repository}"
    hub.check_name(repository, what)
    hub.check_installed(what)


_PHOTOS = {"images": "PHOTOS", "output": "photos.parquet"}
TOOLS = {
    "plan": Tool(
        planning_flags.define_plan, {"topology": "v5e:4x4,v4:2x2x4"}, config=True, check=planning_flags.check_plan
    ),
    "input_rate": Tool(planning_flags.define_input_rate, {}, config=True),
    "report": Tool(_define_report, {"workdirs": "runs/quickstart"}),
    "search": Tool(_define_search, {"embeddings": "x.parquet", "output": "groups.html"}, check=_check_search),
    "import_weights": Tool(
        _define_import_weights, {"source": "gs://simclr-checkpoints/simclrv2/...", "workdir": "runs/imported"}
    ),
    "quickstart": Tool(_define_quickstart, {}, positional="workdir"),
    "embed": Tool(_define_embed, {"pretrained": "runs/photos"} | _PHOTOS, check=_check_embed, processes=True),
    "export": Tool(
        _define_export,
        {"pretrained": "runs/photos", "format": "onnx", "output": "photos.onnx"},
        check=_check_export,
    ),
    "verdict": Tool(_define_verdict, {"pretrained": "runs/photos"}, check=_check_verdict),
    "prepare": Tool(prepare_flags.define, {"images": "PHOTOS", "output": "records"}, check=prepare_flags.check),
    "predict": Tool(_define_predict, {"finetuned": "runs/photos_1pct"} | _PHOTOS, check=_check_predict, processes=True),
}


def parse_tool(argv: Sequence[str], values: flags.FlagValues, name: str) -> None:
    """Parses the command line of a tool.

    Raises:
      UserError: for any mistake in it.
    """
    tool = TOOLS[name]
    plain = [word for word in argv[1:] if word[:1] != "-"]
    if tool.positional and len(plain) > 1:
        raise UserError(f"unknown argument {plain[1]!r}: give one {tool.positional}.")
    words = [f"--{tool.positional}={word}" if tool.positional and word[:1] != "-" else word for word in argv[1:]]
    parse([argv[0], *words], values, tool.define, config=tool.config)
    for flag, example in tool.required.items():
        if not values[flag].value:
            raise UserError(f"--{flag} is missing, as in --{flag}={example}.")
    if "workdir" in values and values["workdir"].value:
        check_folder("workdir", str(values["workdir"].value))
    if tool.check is not None:
        tool.check(values)
