"""Writes the pages of the API, one for each package, from the files that are there: no module can be forgotten.

`docs/conf.py` calls `write_pages` before each build, and `missing_names` after it.
"""

from collections.abc import Iterator
import importlib
import inspect
import pathlib

REPOSITORY = pathlib.Path(__file__).parents[1]
ROOTS = ("simclr_jax", "launch")

# The members of a package's __init__ are documented where they are defined.
PACKAGE = """
.. automodule:: {name}
   :no-members:
"""
MODULE = """
{name}
{line}

.. automodule:: {name}
   :members:
   :undoc-members:
   :member-order: bysource
"""


def module_name(path: pathlib.Path) -> str:
    """`simclr_jax.data` for simclr_jax/data/__init__.py."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_names() -> list[str]:
    """All modules of the project, sorted, packages included."""
    return sorted(module_name(path) for root in ROOTS for path in (REPOSITORY / root).rglob("*.py"))


def packages() -> dict[str, list[str]]:
    """The modules of each package, without those of the packages inside it."""
    folders = {name for name in module_names() if (REPOSITORY / name.replace(".", "/")).is_dir()} | set(ROOTS)
    inside: dict[str, list[str]] = {name: [] for name in sorted(folders)}
    for name in module_names():
        if name not in folders:
            inside[name.rpartition(".")[0]].append(name)
    return inside


def write_pages(folder: pathlib.Path) -> None:
    """Writes PACKAGE.rst for each package, and index.rst, into `folder`. Leaves files that do not change."""
    folder.mkdir(exist_ok=True)
    pages = {}
    for package, modules in packages().items():
        text = f"{package}\n{'=' * len(package)}\n"
        if (REPOSITORY / package.replace(".", "/") / "__init__.py").exists():
            text += PACKAGE.format(name=package)
        pages[f"{package}.rst"] = text + "".join(MODULE.format(name=name, line="-" * len(name)) for name in modules)
    listed = "".join(f"   {page.removesuffix('.rst')}\n" for page in pages)
    title = "API\n===\n\nEvery public name, by package. The commands are modules of ``simclr_jax`` itself.\n"
    pages["index.rst"] = f"{title}\n.. toctree::\n   :maxdepth: 1\n\n{listed}"
    for path in set(folder.glob("*.rst")) - {folder / page for page in pages}:
        path.unlink()  # of a package that was renamed
    for page, text in pages.items():
        path = folder / page
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def public_names() -> Iterator[str]:
    """The full name of every public function and class, where it is defined. Imports all modules."""
    for module_name in module_names():
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if (
                not name.startswith("_")
                and (inspect.isfunction(value) or inspect.isclass(value))
                and value.__module__ == module_name
            ):
                yield f"{module_name}.{name}"


def missing_names(documented: set[str]) -> list[str]:
    """Those of `public_names` that are not in `documented`."""
    return sorted(set(public_names()) - documented)
