"""The flags of the commands that are no runs: they have no workdir with a config of their kind."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

from absl import flags

from simclr_jax.config.choices import PADDINGS
from simclr_jax.config.choices import WEIGHT_FORMATS
from simclr_jax.errors import UserError
from simclr_jax.runtime.flags import check_folder
from simclr_jax.runtime.flags import define_config
from simclr_jax.runtime.flags import parse


@dataclasses.dataclass(frozen=True)
class Tool:
    """A command that is no run.

    Attributes:
      define: defines its flags: (command line, flags).
      required: flags that have to be given, each with a value for the message.
      config: whether --config, of pretraining, is one of its flags.
      positional: the flag that a word without dashes is the value of.
      check: checks of several flags together; raises UserError.
    """

    define: Callable[[Sequence[str], flags.FlagValues], None]
    required: dict[str, str]
    config: bool = False
    positional: str | None = None
    check: Callable[[flags.FlagValues], None] = lambda values: None


def _define_plan(argv: Sequence[str], values: flags.FlagValues) -> None:
    define_config(argv, values)
    text = "Slices, as in v5e:4x4,v4:4x4x4: chip version and how many chips in each dimension."
    flags.DEFINE_list("topology", [], text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print a JSON object in a line for each topology.", flag_values=values)
    text = "Images on each chip, instead of config.batch_size: to compare slices of different sizes."
    flags.DEFINE_integer("batch_per_chip", None, text, lower_bound=1, flag_values=values)
    text = "Number of training images, for data that is not on this machine."
    flags.DEFINE_integer("num_examples", None, text, lower_bound=1, flag_values=values)
    text = "Number of classes of the online classifier then; 0: no labels."
    flags.DEFINE_integer("num_classes", 0, text, lower_bound=0, flag_values=values)


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
    text = "Find groups of images that are more similar than this, such as 0.97."
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


TOOLS = {
    "plan": Tool(_define_plan, {"topology": "v5e:4x4,v4:2x2x4"}, config=True),
    "report": Tool(_define_report, {"workdirs": "runs/quickstart"}),
    "search": Tool(_define_search, {"embeddings": "x.parquet", "output": "groups.html"}, check=_check_search),
    "import_weights": Tool(
        _define_import_weights, {"source": "gs://simclr-checkpoints/simclrv2/...", "workdir": "runs/imported"}
    ),
    "quickstart": Tool(_define_quickstart, {}, positional="workdir"),
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
    tool.check(values)
    if "workdir" in values:
        check_folder("workdir", str(values["workdir"].value))
