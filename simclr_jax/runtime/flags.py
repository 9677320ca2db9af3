"""Defines and parses the flags of every command, without importing JAX or TensorFlow.

Every mistake on a command line ends in a `UserError` of one line, before anything expensive is imported.
"""

from collections.abc import Callable
from collections.abc import Sequence
import os
import pathlib
import re
import traceback

from absl import flags
import ml_collections
from ml_collections import config_flags

from simclr_jax.config import CONFIGS
from simclr_jax.config import KINDS
from simclr_jax.config import defaults
from simclr_jax.config.checks import check_fields
from simclr_jax.config.checks import check_values
from simclr_jax.config.locate import find_config
from simclr_jax.config.locate import import_file
from simclr_jax.errors import UserError
from simclr_jax.runtime import hub
from simclr_jax.runtime import trackers
from simclr_jax.runtime.messages import explain

Define = Callable[[Sequence[str], flags.FlagValues], None]

HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort", "-?")
# Flags whose values are places on a file system: `~` is expanded in them.
PLACES = (
    *("workdir", "workdirs", "pretrained", "compilation_cache", "output", "sweep", "source", "init_from"),
    *("finetuned", "images", "data_dir", "embeddings"),
    *("config.data.root", "config.data.labels", "config.teacher"),
)


# Characters of the patterns of `glob`.
_PATTERN = re.compile(r"[\[\]*?]")


def define_config(argv: Sequence[str], values: flags.FlagValues, default: str | None = None) -> None:
    """Defines `--config`, and one flag for each field of the config that `argv` names.

    Args:
      argv: the command line.
      values: where the flags are defined.
      default: name of the file in `configs/` that is used without --config.
    """
    text = (
        "A config file, FILE.py[:argument=value,...]. digits, digits.py and configs/digits.py name a shipped one. Values with "
        "a comma are put in quotes: :root='a,b'. Its fields are flags too: --config.field=value."
    )
    path = str(CONFIGS / default) if default else None
    config_flags.DEFINE_config_file("config", path, text, flag_values=values, sys_argv=list(argv))


def define_init_from(values: flags.FlagValues) -> None:
    """Defines the flags of pretraining that starts from other weights."""
    text = (
        "Start from the weights of this workdir or checkpoint of any kind of run, also an imported one. A run that continues "
        "in --workdir ignores it."
    )
    flags.DEFINE_string("init_from", None, text, flag_values=values)
    text = "Take the projection head of --init_from too, where it has one; --noinit_head: the encoder alone."
    flags.DEFINE_bool("init_head", True, text, flag_values=values)


def define_run(values: flags.FlagValues, pretrained: bool) -> None:
    """Defines the flags that all kinds of runs have; `pretrained`: whether --pretrained is one of them."""
    text = "Folder for checkpoints, metrics and results, also gs://BUCKET/... The same folder continues a run."
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    if pretrained:
        text = "Workdir of a pretraining run, or one checkpoint in it."
        flags.DEFINE_string("pretrained", None, text, flag_values=values)
    text = "Where compiled programs are kept for a faster start. Default: WORKDIR/compilation_cache. Empty: nowhere."
    flags.DEFINE_string("compilation_cache", None, text, flag_values=values)
    text = "first:last, the training steps of which a trace for TensorBoard or xprof is written to WORKDIR/profile."
    flags.DEFINE_string("profile_steps", None, text, flag_values=values)
    text = "Seconds without a finished step after which the stacks of all threads are printed. 0: never."
    flags.DEFINE_float("hang_timeout", 1800.0, text, lower_bound=0.0, flag_values=values)
    text = "End the process after such a hang, so that its launcher starts the job again."
    flags.DEFINE_bool("hang_exit", False, text, flag_values=values)
    text = "Refuse a training step that needs more memory than is free, before the first one; --nomemory_check: try it."
    flags.DEFINE_bool("memory_check", True, text, flag_values=values)
    text = "Continue a run in --workdir though its images, labels or encoder are other ones; the results say so."
    flags.DEFINE_bool("accept_new_data", False, text, flag_values=values)
    text = "Send metrics, config and pictures to wandb or mlflow as well; once for each, or separated by commas."
    flags.DEFINE_multi_string("tracker", [], text, flag_values=values)
    define_processes(values)


def define_processes(values: flags.FlagValues) -> None:
    """Defines the flags of commands that run as several processes."""
    text = "HOST:PORT of process 0, for several processes that no cluster (Cloud TPU, GKE, SLURM) has started."
    flags.DEFINE_string("coordinator_address", None, text, flag_values=values)
    flags.DEFINE_integer("num_processes", None, "How many processes take part.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "The number of this process, from 0.", flag_values=values)
    text = "Seconds that the processes wait for each other at the start."
    flags.DEFINE_integer("initialization_timeout", 300, text, lower_bound=1, flag_values=values)


def parse(
    argv: Sequence[str],
    values: flags.FlagValues,
    define: Define,
    *,
    config: bool = True,
    hint: str = "flags begin with --; --help lists them.",
) -> None:
    """Defines flags by `define(argv, values)` and fills `values` from a command line.

    Args:
      argv: the command line; `argv[0]` is the program.
      values: where the flags are defined.
      define: defines the flags of the command.
      config: whether --config is one of them.
      hint: ends the message about a word that is no flag.

    Raises:
      UserError: for an unknown flag or field, with the nearest name; for a malformed value; for a config file that is
        missing or fails.
    """
    argv = normalise(argv)
    try_config(argv)
    try:
        define(argv, values)
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise explain(error, argv, values) from error
    if len(rest) > 1:
        raise UserError(f"unknown argument {rest[1]!r}: {hint}")
    if config and values["config"].value is None:
        raise UserError(f"--config is missing, as in --config={CONFIGS / 'digits.py'}.")


def normalise(argv: Sequence[str]) -> list[str]:
    """Joins `--config FILE` to one word and puts it first, finds the file, and expands `~` in flags that are places."""
    _check_encoding(argv)
    config: list[str] = []
    words: list[str] = []
    rest = iter(argv[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        name = name.lstrip("-") if word.startswith("-") else ""
        if not equals and (name in PLACES or name == "config"):
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise _no_value(name)
        elif not equals:
            words.append(word)
            continue
        if name == "config":
            if not value:
                raise _no_value(name)
            file, colon, arguments = value.partition(":")
            value = f"{find_config(file)}{colon}{arguments}"
        elif name in PLACES and value.startswith("~"):
            value = os.path.expanduser(value)
        if name == "config":  # the last one counts, as with every flag; ml_collections would mix the two
            config = [f"--config={value}"]
        else:
            words.append(f"--{name}={value}" if name else word)
    return [argv[0], *config, *words]


def _check_encoding(argv: Sequence[str]) -> None:
    """Refuses words that this terminal's locale cannot represent: the libraries below would fail on them much later."""
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="surrogateescape").decode(errors="replace")
            raise UserError(
                f"{shown}: the locale of this terminal has no such letters. Set one that has, as in LC_ALL=C.UTF-8, or "
                "PYTHONUTF8=1."
            ) from None


def _no_value(name: str) -> UserError:
    return UserError(f"--{name} has no value, as in --{name}={'digits.py' if name == 'config' else 'DIR'}.")


def try_config(argv: Sequence[str]) -> None:
    """Runs the config file of a command line once: ml_collections would show a mistake in it as a whole traceback.

    Raises:
      UserError: with the file, the line and the mistake.
    """
    value = next((word.removeprefix("--config=") for word in argv if word.startswith("--config=")), None)
    if value is None:
        return
    file, colon, arguments = value.partition(":")
    try:
        module = import_file(pathlib.Path(file))
        if not hasattr(module, "get_config"):
            raise UserError("it has no function get_config(arg=None) that returns the config.")
        config = module.get_config(*([arguments] if colon else []))
        if not isinstance(config, ml_collections.ConfigDict):
            raise UserError(
                f"get_config() returns {config!r}, but should return a config: start from simclr_jax.config."
            )
    except UserError as error:
        raise UserError(f"--config={value}: {error}") from error
    except SyntaxError as error:
        raise UserError(f"--config={file}: line {error.lineno}: {error.msg}.") from error
    except Exception as error:  # whatever its code raises
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(file)]
        line = lines[-1] if lines else "?"
        raise UserError(f"--config={file}: line {line}: {type(error).__name__}: {error}") from error


def parse_run(argv: Sequence[str], values: flags.FlagValues, kind: str, *, check_places: bool = True) -> None:
    """Parses the command line of a kind of run and checks all that needs neither data nor devices.

    Args:
      argv: the command line; `argv[0]` is the program.
      values: where the flags are defined.
      kind: of the run.
      check_places: look up --workdir and --pretrained on the file system too. False for a stage of a sweep, which may
        evaluate a checkpoint that an earlier stage has yet to write.

    Raises:
      UserError: for any mistake in it.
    """
    known = KINDS[kind]

    def define(argv: Sequence[str], values: flags.FlagValues) -> None:
        define_config(argv, values, known.default_config)
        define_run(values, known.evaluates)
        if kind == "pretrain":
            define_init_from(values)

    parse(argv, values, define)
    parse_profile_steps(values["profile_steps"].value)
    trackers.parse_names(values["tracker"].value or [])
    if not values["workdir"].value:
        raise UserError("--workdir is missing: the folder for checkpoints, metrics and results.")
    if check_places:
        check_folder("workdir", values["workdir"].value)
        if known.evaluates:
            check_exists("pretrained", values["pretrained"].value)
    config: ml_collections.ConfigDict = values["config"].value
    check_fields(config, defaults(kind))
    check_values(config, device_count=1)
    if known.evaluates and config.init == "pretrained" and not values["pretrained"].value:
        hint = "the workdir of a pretraining run. (Or from scratch: --config.init=random.)"
        raise UserError(f"--pretrained is missing: {hint}")


def parse_profile_steps(text: str | None) -> tuple[int, int] | None:
    """`--profile_steps=a:b`: trace steps a to b, both included, counted from 1."""
    if not text:
        return None
    first, colon, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and colon) or not 1 <= int(first) <= int(last):
        raise UserError(f"--profile_steps={text}: give the first and the last step, as in --profile_steps=100:104.")
    return int(first), int(last)


def check_folder(name: str, folder: str) -> None:
    """Refuses the value of flag `name` where a file has the name of this folder, or of a folder above it."""
    if folder.startswith(hub.SCHEME):
        raise UserError(f"--{name}={folder}: a run cannot write there; simclr_jax.export --push_to_hub uploads one.")
    if "://" in folder:
        return
    if _PATTERN.search(os.path.abspath(folder)):
        raise UserError(
            f"--{name}={folder}: take a folder without [ ] * ? in its path ({os.path.abspath(folder)}). Libraries that write "
            "checkpoints take these for patterns."
        )
    path = pathlib.Path(folder)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            what = "it" if place == path else str(place)
            raise UserError(f"--{name}={folder}: {what} is a file, but has to be a folder, or a name for a new one.")


def check_exists(name: str, place: str | None) -> None:
    """Refuses the value of flag `name` where nothing is there. A place in a bucket, or on the Hub, is not looked up."""
    if place and place.startswith(hub.SCHEME):
        hub.parse(place, f"--{name}={place!r}")
    if place and "://" not in place and not os.path.exists(place):
        raise UserError(f"--{name}={place!r} does not exist.")


def check_new(output: str, overwrite: bool) -> None:
    """Refuses a local output in a folder that does not exist, and one that exists, unless it may be replaced.

    Raises:
      UserError: with the reason.
    """
    folder = pathlib.Path(output).parent
    if not folder.is_dir():
        raise UserError(f"--output={output}: there is no folder {folder}.")
    if os.path.exists(output) and not overwrite:
        raise UserError(f"--output={output} exists: --overwrite replaces it.")
