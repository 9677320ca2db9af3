"""The rooms of the code: which module may import which, and how long files and functions may be."""

import ast
import functools
import itertools
import pathlib
import subprocess
import sys

from helpers import REPOSITORY
import pytest

# From the lowest to the highest: a room imports from itself and from rooms above its line.
LAYERS = (
    {"simclr_jax", "simclr_jax.errors"},
    {"simclr_jax.config"},
    {"simclr_jax.runtime", "simclr_jax.onednn"},
    {"simclr_jax.models", "simclr_jax.objectives", "simclr_jax.augment", "simclr_jax.workdir"},
    {"simclr_jax.data", "simclr_jax.reporting", "simclr_jax.retrieval"},
    {"simclr_jax.training", "simclr_jax.preparing"},
    {"simclr_jax.evaluation", "simclr_jax.interchange", "simclr_jax.tpu"},
    {"simclr_jax.inference"},
    {"simclr_jax.diagnosis"},
    {
        *("simclr_jax.pretrain", "simclr_jax.linear_probe", "simclr_jax.knn", "simclr_jax.finetune"),
        *("simclr_jax.distill", "simclr_jax.transfer", "simclr_jax.transform_probe"),
        *("simclr_jax.preview", "simclr_jax.report", "simclr_jax.plan", "simclr_jax.quickstart"),
        *("simclr_jax.search", "simclr_jax.import_weights", "simclr_jax.embed", "simclr_jax.predict"),
        *("simclr_jax.export", "simclr_jax.verdict", "simclr_jax.input_rate", "simclr_jax.prepare"),
    },
    {"launch", "configs", "benchmarks"},
)
ROOM_LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Longer than 300 lines, each with the reason.
LONG_FILES = {
    "benchmarks/harness.py": "the whole harness: measuring in processes, pairing, tables",
}
# Longer than 60 lines, each with the reason.
LONG_FUNCTIONS = {
    "launch/gke.py:manifest": "one nested literal: the JobSet",
}


@functools.cache
def modules():
    """Module name to its syntax tree."""
    files = (
        path for top in ("simclr_jax", "launch", "configs", "benchmarks") for path in (REPOSITORY / top).rglob("*.py")
    )
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text()
        )
        for path in files
    }


def imports(name):
    """The project's modules that a module imports, also within functions. A package counts as its __init__."""
    seen = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` runs the package's __init__ only to get at the module.
            seen |= {node.module} | submodules
    return {module for module in seen if module in modules() and module != name}


def room(name):
    return ".".join(name.split(".")[: 1 if name.split(".")[0] in ("launch", "configs", "benchmarks") else 2])


def test_no_module_is_part_of_a_circle():
    reached = {name: imports(name) for name in modules()}
    while True:
        wider = {name: found.union(*(reached[one] for one in found)) for name, found in reached.items()}
        if wider == reached:
            break
        reached = wider
    assert [name for name, found in reached.items() if name in found] == []


@pytest.mark.parametrize("name", sorted(modules()))
def test_rooms_import_downwards_only(name):
    own = ROOM_LEVEL[room(name)]
    wrong = [
        one
        for one in imports(name)
        if room(one) != room(name) and ROOM_LEVEL[room(one)] >= own and own < len(LAYERS) - 1
    ]
    assert wrong == []
    if room(name).startswith("simclr_jax"):
        assert [one for one in imports(name) if not one.startswith("simclr_jax")] == []


def test_the_top_level_holds_commands_and_errors_only():
    commands = {name.split(".")[1] for name in LAYERS[-2]}
    files = {path.stem for path in (REPOSITORY / "simclr_jax").glob("*.py")}
    assert files == commands | {"__init__", "errors"}


def test_tensorflow_is_imported_in_one_place():
    importing = [
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        and any(alias.name.split(".")[0].startswith("tensorflow") for alias in node.names)
    ]
    assert set(importing) == {"simclr_jax.runtime.tensorflow"}


def test_files_and_functions_are_short():
    long_files, long_functions = set(), set()
    for name, tree in modules().items():
        path = pathlib.Path(*name.split("."))
        path = path / "__init__.py" if (REPOSITORY / path).is_dir() else path.with_suffix(".py")
        if len((REPOSITORY / path).read_text().splitlines()) > 300:
            long_files.add(str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                long_functions.add(f"{path}:{node.name}")
    assert long_files == set(LONG_FILES)
    assert long_functions == set(LONG_FUNCTIONS)


@pytest.mark.slow
def test_importing_costs_nothing_and_defines_no_flag():
    light = ["simclr_jax", "simclr_jax.config", "simclr_jax.runtime.cli", "simclr_jax.errors"]
    code = "\n".join(
        [
            "import sys",
            *(f"import {name}" for name in light),
            "assert not {'jax', 'flax', 'optax', 'tensorflow', 'orbax', 'sklearn'} & set(sys.modules)",
            "from absl import flags",
            "before = set(flags.FLAGS)",
            *(f"import {name}" for name in sorted(itertools.chain(*LAYERS[-2:-1]))),
            "new = set(flags.FLAGS) - before",
            "own = [flag for flag in new if 'simclr' in (flags.FLAGS.find_module_defining_flag(flag) or '')]",
            "assert own == [], own",
            "import jax",
            "from jax._src import xla_bridge",
            "assert not xla_bridge._backends, 'an import started a device'",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
