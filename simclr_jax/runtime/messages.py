"""One line for what absl and ml_collections raise about a command line."""

from collections.abc import Sequence
import re

from absl import flags
import ml_collections

from simclr_jax.config import KINDS
from simclr_jax.config import fields_of
from simclr_jax.errors import UserError
from simclr_jax.errors import nearest


def explain(error: Exception, argv: Sequence[str], values: flags.FlagValues) -> UserError:
    """A message of one line for what absl or ml_collections raised."""
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").split())
    override = next((word for word in argv if _names_wrong_field(word, values)), None)
    if override is not None:
        name = override.lstrip("-").partition("=")[0].removeprefix("config.")
        fields = _fields_of(values)
        return UserError(
            f"{override}: a --config override names a field that does not exist{nearest(name, fields)}; --help lists them."
        )
    # The block of an override is missing: ml_collections raises its name alone.
    block = text.strip("'")
    override = next((word for word in argv if word.lstrip("-").startswith(f"config.{block}.")), None)
    if isinstance(error, KeyError) and override is not None:
        return UserError(f"{override}: the config of this command has no block {block!r}; --help lists its fields.")
    wrong = re.search(r"flag --([\w.]+)=(.*?): ", text)
    if wrong:
        return UserError(f"--{wrong[1]}={wrong[2].strip()}: should be {_right_value(wrong[1], values)}.")
    if isinstance(error, flags.UnrecognizedFlagError):
        return UserError(f"unknown flag --{error.flagname}{nearest(error.flagname, values)}; --help lists them.")
    return UserError(text)


def _names_wrong_field(word: str, values: flags.FlagValues) -> bool:
    name = word.lstrip("-").partition("=")[0]
    return word.startswith("-") and name.startswith("config.") and name[len("config.") :] not in _fields_of(values)


def _fields_of(values: flags.FlagValues) -> list[str]:
    config = values["config"].value if "config" in values else None
    kind = config.get("kind") if config is not None else None
    if kind not in KINDS:
        return [name for known in KINDS for name in fields_of(known)]
    return [*fields_of(kind)]


def _right_value(name: str, values: flags.FlagValues) -> str:
    """What the value of a flag has to be, for a message."""
    if name.startswith("config."):
        config: ml_collections.ConfigDict = values["config"].value
        declared = fields_of(config.kind).get(name.removeprefix("config.")) if config.get("kind") in KINDS else None
        if declared is None:
            return "of another type"
        if declared.bound is not None and declared.value_type is tuple:
            return declared.bound.text
        return f"of type {declared.type_name}"
    flag = values[name]
    if isinstance(flag, flags.EnumFlag):
        return f"one of {', '.join(flag.parser.enum_values)}"
    return "true or false" if flag.boolean else flag.parser.syntactic_help or f"of type {flag.flag_type()}"
