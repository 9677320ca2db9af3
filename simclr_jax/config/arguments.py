"""The arguments of a config file: `--config=configs/imagenet.py:depth=50,width=2`."""

import re
from typing import Any

import ml_collections

from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.errors import nearest

# An entry ends at a comma, but not at one inside quotes.
_ENTRY = re.compile(r"""((?:'[^']*'|"[^"]*"|[^,'"]|['"])*?)(?:,|$)""")


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
    """Reads the arguments of a config file, typed as their defaults are.

    Args:
      arg: the text after the colon, or None. An entry without "=" is the value of the first argument. A value with a comma
        is put in quotes, as in `root='a,b',size=64`; only the first "=" of an entry separates name and value.
      **defaults: every argument with its default value (int, float, bool or str).

    Raises:
      UserError: for an unknown argument, with the nearest name, and for a value of the wrong type.

    Example:
      >>> parse_arg("'my, photos',size=64", root="", size=224).to_dict()
      {'root': 'my, photos', 'size': 64}
    """
    values = ml_collections.ConfigDict(defaults)
    for index, item in enumerate(filter(None, split(arg or ""))):
        key, equals, text = item.partition("=")
        if index == 0 and (not equals or (key not in defaults and _is_quoted(item))):
            key, text = next(iter(defaults)), item
        if key not in defaults:
            raise UserError(
                f"the config file has no argument {key!r}{nearest(key, defaults)}; it has {listed(defaults)}."
            )
        try:
            values[key] = _parse(_unquote(text), type(defaults[key]))
        except ValueError:
            kind = type(defaults[key]).__name__
            raise UserError(f"the config argument {key}={text!r} should be of type {kind}.") from None
    return values


def split(text: str) -> list[str]:
    """The entries between commas; commas inside quotes do not count. An entry may begin on a new line of a shell."""
    return [entry.strip() for entry in _ENTRY.findall(text)]


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]


def _unquote(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    return kind(text)
