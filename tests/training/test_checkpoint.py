"""Checkpoints: round trips, what is kept, what is refused, parts."""

from etils import epath
from helpers import mesh_of
from helpers import some_variables
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.models.networks import SimCLR
from simclr_jax.training import checkpoint
from simclr_jax.training import save_clock
from simclr_jax.training import state as state_lib


@pytest.fixture(scope="module")
def config():
    config = config_lib.pretrain()
    config.model.update(depth=10, width=0.125, stem="cifar")
    config.checkpoint.update(keep=2, keep_every_steps=4)
    return config


@pytest.fixture(scope="module")
def state(config):
    mesh = mesh_of(8)
    variables = some_variables(lambda rngs: SimCLR(config, 10, rngs=rngs), mesh)
    return state_lib.new_state(*variables, optax.sgd(0.1, momentum=0.9), mesh)


def at(state, step):
    return jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), state)


def assert_equal(some, others):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(some), jax.device_get(others))


def saved(tmp_path, config, state, steps):
    checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path), config)
    for step in steps:
        checkpoints.save(step, at(state, step))
    checkpoints.wait()
    return checkpoints


def test_a_state_comes_back_as_it_was_with_its_sharding(tmp_path, config, state):
    checkpoints = saved(tmp_path, config, state, [3])
    restored = checkpoints.restore(state)
    assert_equal(restored, at(state, 3))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert all(a.sharding == b.sharding for a, b in zip(*map(jax.tree.leaves, (restored, state)), strict=True))


def test_without_a_checkpoint_the_state_is_as_given(tmp_path, config, state):
    assert checkpoint.Checkpoints(epath.Path(tmp_path), config).restore(state) is state


@pytest.mark.slow
def test_the_last_k_and_every_nth_are_kept(tmp_path, config, state):
    saved(tmp_path, config, state, range(1, 8))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {4, 6, 7}


@pytest.mark.slow
def test_a_half_written_checkpoint_is_never_restored(tmp_path, config, state):
    saved(tmp_path, config, state, [1, 2]).close()
    directory = tmp_path / "checkpoints"
    # What a kill during the write of step 3 leaves: Orbax's temporary folder, with some of the content.
    import shutil

    half = directory / "3.orbax-checkpoint-tmp"
    shutil.copytree(directory / "2", half)
    shutil.rmtree(half / "optimizer")
    again = checkpoint.Checkpoints(epath.Path(tmp_path), config)
    assert again.latest() == 2
    assert_equal(again.restore(state), at(state, 2))
    assert checkpoint.find(str(tmp_path)).name == "2"


def test_another_config_is_refused_and_the_fields_are_named(tmp_path, config, state):
    saved(tmp_path, config, state, [1]).close()
    other = config.copy_and_resolve_references()
    other.loss.temperature = 0.25
    other.optimizer.learning_rate = 0.6
    other.log_every_steps = 7  # may change
    with pytest.raises(UserError) as error:
        checkpoint.Checkpoints(epath.Path(tmp_path), other).restore(state)
    text = str(error.value)
    assert "config.loss.temperature is 0.25, but that run has 0.1" in text
    assert "config.optimizer.learning_rate is 0.6, but that run has 0.3" in text
    assert "log_every" not in text


@pytest.mark.slow
def test_a_checkpoint_is_found_by_workdir_folder_or_itself(tmp_path, config, state):
    saved(tmp_path, config, state, [5, 10])
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "10"):
        assert checkpoint.find(str(path)) == epath.Path(tmp_path / "checkpoints" / "10")
    assert checkpoint.find(str(tmp_path / "checkpoints" / "5")).name == "5"
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.find(str(tmp_path / "nothing"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="neither the workdir of a run"):
        checkpoint.find(str(tmp_path / "other"))


def test_relative_paths_are_fine(tmp_path, config, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved("run", config, state, [1])
    assert checkpoint.find("run") == epath.Path(tmp_path / "run" / "checkpoints" / "1")
    assert checkpoint.load_config(checkpoint.find("run/checkpoints/1")) == config


def test_only_the_parts_asked_for_are_read(tmp_path, config, state):
    saved(tmp_path, config, state, [2])
    path = checkpoint.find(str(tmp_path))
    for part in ("head", "optimizer", "classifier"):
        (path / part).rename(path / f"{part}-gone")
    assert checkpoint.load_config(path) == config

    def pick(tree):
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
        return {"encoder": abstract["encoder"]}

    params, batch_stats = checkpoint.load_parts(path, pick(state.params), pick(state.batch_stats))
    assert_equal(params["encoder"], at(state, 2).params["encoder"])
    assert_equal(batch_stats["encoder"], at(state, 2).batch_stats["encoder"])


def test_a_checkpoint_is_due_by_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(save_clock.time, "monotonic", lambda: now[0])
    clock, never = save_clock.SaveClock(10), save_clock.SaveClock(0)
    now[0] = 599
    assert not clock.is_due(agree=True)
    now[0] = 601
    assert clock.is_due(agree=False), "one process decides alone"
    assert not never.is_due(agree=True)
    clock.saved()
    assert not clock.is_due(agree=True)
    now[0] = 1202
    monkeypatch.setattr(save_clock.jax, "process_count", lambda: 2)
    monkeypatch.setattr(save_clock.distributed, "decide", lambda answer: answer)
    assert not clock.is_due(agree=False)
    assert clock.is_due(agree=True), "several processes decide where they log"
