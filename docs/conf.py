"""The documentation site: `make docs` builds it into docs/_build/html. Warnings are errors."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the modules are imported, but compute nothing

import api_pages
from sphinx.util import logging

import simclr_jax

project = "simclr_jax"
author = "the authors of simclr_jax"
version = release = simclr_jax.__version__
html_title = f"simclr_jax {version}"
html_theme = "furo"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings use the single backticks of Markdown
smartquotes = False

autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a dataclass are documented once
python_maximum_signature_line_length = 100

myst_heading_anchors = 3  # so that links to headings work as on the sites of repositories
myst_enable_extensions = ["colon_fence"]

SECTIONS = ("Args:", "Attributes:", "Example:", "Returns:", "Raises:", "Yields:")


def _write_api(app) -> None:
    api_pages.write_pages(pathlib.Path(app.srcdir) / "api")


def _check_api(app, env) -> None:
    documented = {name for name, entry in env.domaindata["py"]["objects"].items()}
    for name in api_pages.missing_names(documented):
        logging.getLogger(__name__).warning("%s is public, but is not on any page", name)


def _show_blocks_as_code(app, what, name, object_, options, lines) -> None:
    """Indented blocks of a docstring, before its sections, are commands or formulas: RST would take them for quotations."""
    text, in_block, read = [], False, 0
    for line in lines:
        if line.rstrip() in SECTIONS:
            break
        starts = line.startswith("  ") and not in_block and text and not text[-1]
        if starts:
            text += ["::", ""]
        in_block = starts or (in_block and (line.startswith("  ") or not line))
        text.append(line)
        read += 1
    lines[:read] = text


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _show_blocks_as_code, priority=100)  # before napoleon
    app.connect("builder-inited", _write_api)
    app.connect("env-check-consistency", _check_api)
