"""Import packages that only some commands need: the extras of setup.py."""

import importlib
import importlib.util
from typing import Any

from simclr_jax.errors import UserError


def load(module: str, needs: str, extra: str, rest: str = ".") -> Any:
    """The module, imported.

    Args:
      module: its name.
      needs: what needs the package, for the message: "searching needs faiss, which is not installed".
      extra: the extra of simclr_jax that installs it.
      rest: the end of the message.

    Raises:
      UserError: if it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(needs, extra, rest) from error


def check(module: str, needs: str, extra: str, rest: str = ".") -> None:
    """Like `load`, but only looks whether the module is there, which takes no time."""
    if importlib.util.find_spec(module) is None:
        raise _missing(needs, extra, rest)


def _missing(needs: str, extra: str, rest: str) -> UserError:
    return UserError(f"{needs}: pip install 'simclr_jax[{extra}]'{rest}")
