"""Finds and loads config files."""

import importlib.util
import pathlib
import types

import ml_collections

from simclr_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]
# Installed from a wheel, the configs are inside the package; in a clone they are beside it.
CONFIGS = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    _PACKAGE.parent / "configs",
)


def find_config(name: str) -> pathlib.Path:
    """The file of a config: a path, or the name of a config that comes with the project.

    `configs/digits.py`, `digits.py` and `digits` name the same file from any folder.

    Raises:
      UserError: where there is no such file.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    inside = pathlib.Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for candidate in (CONFIGS / inside, CONFIGS / f"{inside}.py"):
        if not path.is_absolute() and candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem != "__init__"))
    raise UserError(f"--config={name}: no such file. The configs in {CONFIGS} are {names}.")


def import_file(path: pathlib.Path) -> types.ModuleType:
    """Runs a Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, path  # a path that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str, arguments: str | None = None) -> ml_collections.ConfigDict:
    """The config of a file, for config files that start from another one.

    Args:
      name: as for `find_config`.
      arguments: the text that follows the colon in `--config=FILE:ARGUMENTS`.
    """
    return import_file(find_config(name)).get_config(arguments)
