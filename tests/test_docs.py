"""The documentation agrees with the code: its picture, its list of modules, and the examples in docstrings."""

import doctest
import importlib
import importlib.util
import sys

from helpers import REPOSITORY
import pytest


def load(name):
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


draw_architecture = load("draw_architecture")
api_pages = load("api_pages")

WITH_EXAMPLES = [name for name, path in sorted(draw_architecture.modules().items()) if ">>>" in path.read_text()]


def test_the_picture_of_the_architecture_is_up_to_date():
    drawn = draw_architecture.read_structure(draw_architecture.PICTURE.read_text())
    assert drawn == draw_architecture.structure(), "run `make docs` and commit docs/architecture.svg"


def test_the_path_of_a_batch_names_modules():
    modules = draw_architecture.modules()
    assert [name for name, _ in draw_architecture.PATH if f"simclr_jax.{name}" not in modules] == []


def test_a_picture_keeps_its_structure():
    rooms, edges = draw_architecture.read_structure(draw_architecture.draw())
    assert (rooms, edges) == draw_architecture.structure()
    assert ("training", "data") in edges
    assert "loop" in rooms["training"]


def test_arrows_are_left_out_only_where_others_imply_them():
    edges = {("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}
    assert draw_architecture.drawn_edges(edges) == {("a", "b"), ("b", "c"), ("a", "d")}
    assert draw_architecture.levels({room: [] for room in "abcd"}, edges) == [["a"], ["b", "d"], ["c"]]
    with pytest.raises(ValueError, match="circle of imports between the rooms c, d"):
        draw_architecture.levels({room: [] for room in "acd"}, {("a", "c"), ("c", "d"), ("d", "c")})


def test_every_module_has_a_place_on_an_api_page(tmp_path):
    (tmp_path / "renamed.rst").write_text("")
    api_pages.write_pages(tmp_path)
    pages = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert "renamed.rst" not in pages
    text = "".join(pages.values())
    assert [name for name in draw_architecture.modules() if f".. automodule:: {name}\n" not in text] == []
    assert [page for page in pages if page != "index.rst" and page.removesuffix(".rst") not in pages["index.rst"]] == []


def test_a_public_name_without_a_page_is_noticed():
    names = set(api_pages.public_names())
    assert "simclr_jax.objectives.nt_xent.nt_xent" in names
    assert api_pages.missing_names(names - {"simclr_jax.pretrain.run"}) == ["simclr_jax.pretrain.run"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
