"""The cache of compiled programs: a damaged one is compiled again, and written again."""

import logging
import os
import subprocess
import sys
import zlib

from etils import epath
from helpers import REPOSITORY
import pytest

from simclr_jax.runtime import compiled_programs

PROGRAM = zlib.compress(bytes(range(256)) * 200)


@pytest.fixture
def cache(tmp_path):
    for number in range(3):
        (tmp_path / f"jit_step-{number}-cache").write_bytes(PROGRAM)
    return epath.Path(tmp_path)


def names(cache):
    return [path.name for path in sorted(cache.iterdir()) if path.name.endswith("-cache")]


def test_sound_programs_stay(cache, caplog):
    compiled_programs.verify(cache)
    compiled_programs.seal(cache)
    compiled_programs.verify(cache)
    assert len(names(cache)) == 3
    assert not caplog.text


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: bytes(len(b)), lambda b: b"x" + b])
def test_damaged_programs_are_removed(cache, caplog, sealed, damage):
    if sealed:
        compiled_programs.seal(cache)
    caplog.set_level(logging.WARNING, "simclr_jax")
    (cache / "jit_step-1-cache").write_bytes(damage(PROGRAM))
    compiled_programs.verify(cache)
    assert names(cache) == ["jit_step-0-cache", "jit_step-2-cache"]
    assert "jit_step-1-cache was damaged and is compiled again" in caplog.text
    (cache / "jit_step-1-cache").write_bytes(zlib.compress(b"another program with this key"))
    compiled_programs.seal(cache)
    caplog.clear()
    compiled_programs.verify(cache)
    assert len(names(cache)) == 3
    assert not caplog.text


def test_a_flipped_bit_is_found_by_the_checksum(cache):
    compiled_programs.seal(cache)
    changed = bytearray(PROGRAM)
    changed[5] ^= 1
    (cache / "jit_step-2-cache").write_bytes(bytes(changed))
    compiled_programs.verify(cache)
    assert len(names(cache)) == 2


def test_damaged_checksums_are_no_checksums(cache):
    (cache / compiled_programs.CHECKSUMS).write_text("[")
    compiled_programs.verify(cache)
    assert len(names(cache)) == 3
    compiled_programs.verify(epath.Path(cache / "none"))
    compiled_programs.seal(epath.Path(cache / "none"))


INITIAL_VALUES = """
import hashlib
import jax
from configs import digits
from simclr_jax.runtime import compiled_programs, sharding
from simclr_jax.training.recipe import PretrainRecipe

config = digits.get_config()
config.model.update(depth=10, width=0.125)
mesh = sharding.make_mesh(config.mesh)
print(compiled_programs.options_for_one_run(mesh))
print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.device_get(
    jax.tree.leaves(PretrainRecipe(config, mesh, 1000).init_state().params)))).hexdigest())
"""


@pytest.mark.slow
def test_initial_values_have_the_same_bits_with_little_optimisation():
    """In processes without the tests' own flags, which optimise less."""
    printed = {}
    for flags in ("", "--xla_backend_optimization_level=3"):  # 3 is XLA's default
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": ""}
        words = [sys.executable, "-c", INITIAL_VALUES]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        printed[flags] = done.stdout.split("\n")[:2]
    assert [lines[0] for lines in printed.values()] == ["{'xla_backend_optimization_level': 1}", "None"]
    assert len({lines[1] for lines in printed.values()}) == 1
