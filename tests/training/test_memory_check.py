"""The check before the first step: what a step needs, what would fit, and the smallest number of micro-batches."""

import subprocess
import sys

from etils import epath
from helpers import REPOSITORY
from helpers import TINY
from helpers import compilations
from helpers import mesh_of
import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.training import memory
from simclr_jax.training.memory import Need
from simclr_jax.training.recipe import PretrainRecipe
from simclr_jax.training.state import TrainState


@pytest.fixture
def without_workspace(monkeypatch):
    """For needs of a few bytes."""
    monkeypatch.setattr(memory, "WORKSPACE", 0)


def need_with(total_of, parts):
    return Need(total_of(parts), state=20.0, params=10.0, batch=4.0, parts=parts)


@pytest.mark.usefixtures("without_workspace")
@pytest.mark.parametrize("room", [1100, 600, 300, 130, 70, 59])
@pytest.mark.parametrize("wrong_by", [0.6, 1.0, 1.5])
def test_the_smallest_number_that_fits_takes_few_compilations(room, wrong_by):
    """Also where the model predicts badly."""
    compiled = []

    def total(parts):
        return 24 + (24 if parts > 1 else 0) + 1000 / parts**wrong_by

    def need_in(parts):
        compiled.append(parts)
        return need_with(total, parts)

    numbers = [2**power for power in range(9)]
    found = memory.smallest_parts(numbers, need_in, room)
    assert found == next((number for number in numbers if total(number) <= room), None)
    assert len(compiled) == len(set(compiled)) <= 5
    assert compiled == [1] or room < total(1)


@pytest.mark.usefixtures("without_workspace")
def test_where_the_compiler_only_says_no_it_is_bisected():
    def need_in(parts):
        return need_with(lambda parts: 59.0 if parts >= 32 else float("inf"), parts)

    assert memory.smallest_parts([2**power for power in range(9)], need_in, 100) == 32
    assert memory.smallest_parts([1, 2, 4], need_in, 100) is None


def recipe_of(**changes):
    config = config_lib.pretrain()
    config.model.update(depth=18, width=0.125, stem="cifar")
    config.data.update(source="digits", image_size=32)
    config.optimizer.warmup_epochs = 0.1
    config.batch_size = 256
    config.update_from_flattened_dict(changes)
    return PretrainRecipe(config, mesh_of(1), 1000, 10)


def need_of(recipe):
    return memory.need_of(recipe.step, recipe.abstract_state(), recipe.abstract_batch(), recipe.config.microbatches)


@pytest.mark.heavy
def test_what_is_suggested_fits(monkeypatch):
    """The model of `Need`, against the compiler."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    recipe = recipe_of()
    need = need_of(recipe)
    assert need.state == memory.bytes_of(recipe.abstract_state()) > need.params > 0
    room = 0.6 * need.total
    flags = memory.suggestions(need, room, recipe.config)
    assert flags == ["--config.batch_size=64", "--config.microbatches=4", "--config.data.image_size=16"]
    for flag in flags:
        name, value = flag.removeprefix("--config.").split("=")
        found = need_of(recipe_of(**{name: int(value)})).total
        assert 0.1 * need.total < found < room or (name == "data.image_size" and found < room), flag


def test_a_step_that_is_compiled_ahead_is_compiled_once():
    @jax.jit
    def step(state, batch):
        return jax.tree.map(lambda leaf: leaf * batch[0], state), batch

    batch = jax.ShapeDtypeStruct((3,), np.float32)
    state = TrainState(step=batch, params={"kernel": batch}, batch_stats={}, opt_state=())
    with compilations() as compiled:
        memory.compile_ahead(step, state, batch)
        assert memory.need_of(step, state, batch).params == 12
    assert compiled == ["step"]


@pytest.mark.slow
@pytest.mark.usefixtures("at_repository")
@pytest.mark.parametrize("settings", [[], ["--config.data.resident", "--config.data.image_size=6"]])
def test_a_run_compiles_its_step_once(tmp_path, settings):
    """Also with resident images of another size than the views."""
    run = (*TINY, "--config.epochs=0.1", "--config.optimizer.warmup_epochs=0.05", f"--workdir={tmp_path}", *settings)
    with compilations() as compiled:
        cli.call("pretrain", *run)
    assert compiled.count("pretrain_step") == 1
    with compilations() as compiled:
        cli.call("pretrain", *run)  # finished
    assert compiled.count("pretrain_step") == 0


END = """
import time

import jax
import jax.numpy as jnp

from simclr_jax.training import memory

def step(state, batch):
    for factor in range(150):
        batch = jnp.sin(batch @ batch) + jnp.cumsum(batch, 0) * factor
    return batch

memory.compile_ahead(jax.jit(step), jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct((8, 8), "float32"))
time.sleep(0.4)
raise SystemExit(7)
"""


@pytest.mark.slow
def test_python_can_end_while_a_step_is_compiled():
    assert subprocess.run([sys.executable, "-c", END], cwd=REPOSITORY, check=False).returncode == 7


@pytest.mark.heavy
@pytest.mark.usefixtures("at_repository")
def test_a_run_is_refused_or_takes_micro_batches_and_compiles_nothing_twice(tmp_path, monkeypatch):
    room, needs = 1.0, {}
    need_of = memory.need_of

    def recorded(step_fn, state, batch, parts=1):
        needs[parts] = need_of(step_fn, state, batch, parts)
        return needs[parts]

    monkeypatch.setattr(memory, "need_of", recorded)
    monkeypatch.setattr(memory.memory, "available", lambda held=0: room + held)
    # Large enough that the activations, and not the parameters, are what takes memory.
    run = (
        *TINY,
        "--config.data.image_size=16",
        "--config.batch_size=128",
        "--config.epochs=0.2",
        "--config.augment.blur_prob=0",
    )
    workdir = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"batch_size=128 and config.data.image_size=16 needs .* GiB, but .* on this machine"
    ):
        cli.call("pretrain", *run, f"--workdir={workdir}")
    assert not list((workdir / "checkpoints").iterdir())
    (need,) = needs.values()
    assert need.total > need.state > 0

    room = 0.6 * need.total
    with compilations() as compiled:
        cli.call("pretrain", *run, f"--workdir={workdir}", "--config.microbatches=auto")
    parts = saved_config.read(epath.Path(workdir / "config.json"), config_lib.pretrain()).microbatches
    assert parts > 1
    assert needs[parts].total <= room
    assert compiled.count("pretrain_step") == len(needs)

    room = 100.0 * need.total
    cli.call("pretrain", *run, f"--workdir={workdir}", "--config.microbatches=auto")  # a run keeps its number
    assert saved_config.read(epath.Path(workdir / "config.json"), config_lib.pretrain()).microbatches == parts
