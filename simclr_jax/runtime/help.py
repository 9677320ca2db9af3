"""The text of --help: a command's description, its flags, and the fields of its config."""

from collections.abc import Iterable
import os
import re
import sys
from typing import Any

from absl import flags

from simclr_jax.config import fields_of
from simclr_jax.config.field import Field

# Flags that absl adds to every program.
_HIDDEN = ("config", "flagfile", "undefok")


def text_of(doc: str, values: flags.FlagValues, kind: str | None = None) -> str:
    """The whole text.

    Args:
      doc: the docstring of the command.
      values: its flags.
      kind: of the run, whose config fields are listed; None where there is no config.
    """
    lines = [doc.strip(), "", "Flags:"]
    if "config" in values:
        lines += _entry("--config", None, values["config"].help)
    for name in values:
        if name not in _HIDDEN and not name.startswith("config."):
            lines += _entry(f"--{name}", values[name].default, _text(values[name]))
    if kind is not None:
        lines += ["", "Config fields:"]
        for name, field in fields_of(kind).items():
            lines += _field(name, field)
    return "\n".join(lines)


def show(text: str) -> None:
    """Prints the text of --help. Its reader, such as `head`, may close the pipe early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its exit


def _text(flag: flags.Flag) -> str:
    """The help of a flag, and the values that it may have, without what absl adds to the text in its own words."""
    text = re.sub(r"^<[^>]*>: |;\s*repeat this option to specify a list of values$", "", flag.help)
    choices = f" One of {', '.join(flag.parser.enum_values)}." if isinstance(flag, flags.EnumFlag) else ""
    return text + choices


def _entry(name: str, default: Any, text: str) -> list[str]:
    shown = "" if default is None else f"  (default: {default})"
    return [f"  {name}{shown}", *_wrapped(text)]


def _field(name: str, field: Field) -> list[str]:
    default = "unset" if field.default is None else _shown(field.default)
    head = f"  --config.{name}  {field.type_name}, default: {default}"
    if len(field.choices) > 1:
        head += f", one of {', '.join(map(str, field.choices))}"
    elif field.bound is not None:
        head += f", {field.bound.text}"
    return [head, *_wrapped(field.doc)]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{entry:g}" for entry in value)
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, width: int = 110) -> Iterable[str]:
    line = "     "
    for word in " ".join(text.split()).split(" "):
        if len(line) + len(word) + 1 > width:
            yield line
            line = "     "
        line += " " + word
    if line.strip():
        yield line
