"""Damaged checkpoints: a run continues from the newest sound one, an evaluation ends with a line, no number is ever wrong."""

import logging
import shutil

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.damage import KINDS
from benchmarks.damage import damaged_copies
from simclr_jax import config as config_lib
from simclr_jax.errors import StorageError
from simclr_jax.errors import UserError
from simclr_jax.training import checkpoint
from simclr_jax.training.checkpoint import integrity
from simclr_jax.training.state import TrainState


def state_at(step):
    """A tiny state whose numbers say of which step it is."""
    draw = np.random.default_rng(step)

    def array(*shape):
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    params = {"encoder": {"conv": array(3, 3, 8)}, "head": {"kernel": array(8, 4)}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        batch_stats={"encoder": {"mean": array(8)}, "head": {}},
        opt_state=jax.tree.map(jnp.zeros_like, params),
    )


def restored(workdir):
    with checkpoint.Checkpoints(epath.Path(workdir), config_lib.pretrain()) as checkpoints:
        return checkpoints.restore(state_at(0))


def evaluated(workdir, like):
    """The encoder of the newest checkpoint, or the line that refuses it."""
    try:
        found = checkpoint.find(str(workdir))
        assert checkpoint.load_config(found) == config_lib.pretrain()
        return checkpoint.load_parts(
            found, {"encoder": like.params["encoder"]}, {"encoder": like.batch_stats["encoder"]}
        )
    except UserError as error:
        return str(error)


def equal(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with the checkpoints of steps 10 and 20."""
    workdir = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(epath.Path(workdir), config_lib.pretrain()) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state_at(step))
    return workdir


@pytest.fixture
def workdir(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def one_of_each(number):
    return [KINDS[number % len(KINDS)]]


def all_kinds(number):
    return KINDS


def test_each_file_of_each_part_has_a_checksum(run):
    folder = run / "checkpoints" / "20"
    sealed = (folder / integrity.NAME).read_text()
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    assert len(inside) > 10
    assert all(f'"{path}"' in sealed for path in inside)
    assert integrity.fault(epath.Path(folder), integrity.TO_CONTINUE) is None


@pytest.mark.parametrize("kinds", [one_of_each, pytest.param(all_kinds, marks=pytest.mark.heavy)])
def test_whatever_is_damaged_a_run_continues_with_right_numbers(run, tmp_path, kinds):
    fell_back = 0
    for copy, file, kind in damaged_copies(run, "checkpoints/20", tmp_path / "copy", kinds):
        state = restored(copy)
        step = int(state.step)
        assert step in (10, 20), (file, kind)
        assert equal(state, state_at(step)), (file, kind)
        assert (copy / integrity.ASIDE / "20").exists() == (step == 10), (file, kind)
        fell_back += step == 10
    assert fell_back > 15


@pytest.mark.parametrize("kinds", [one_of_each, pytest.param(all_kinds, marks=pytest.mark.heavy)])
def test_whatever_is_damaged_an_evaluation_has_right_numbers_or_a_line(run, tmp_path, kinds):
    wanted = state_at(20)
    refused = 0
    for copy, file, kind in damaged_copies(run, "checkpoints/20", tmp_path / "copy", kinds):
        outcome = evaluated(copy, wanted)
        if isinstance(outcome, str):
            assert "\n" not in outcome
            assert str(copy / "checkpoints" / "20") in outcome
            refused += 1
        else:
            params, stats = outcome
            like = wanted.params["encoder"], wanted.batch_stats["encoder"]
            assert equal((params["encoder"], stats["encoder"]), like), (file, kind)
    assert refused > 5


def test_the_line_names_the_file_and_the_checkpoint_before(workdir):
    part = workdir / "checkpoints" / "20" / "encoder"
    file = next(path for path in sorted(part.rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes() + b"x")
    name = file.relative_to(part.parent)
    with pytest.raises(UserError) as refused:
        checkpoint.load_parts(epath.Path(part.parent), {"encoder": {}}, {})
    assert f"is damaged: its file {name} is not as it was written" in str(refused.value)
    assert f"The one before it is {workdir}/checkpoints/10" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: (folder / "99999999").mkdir(), "99999999 is damaged: it has no encoder"),
        (lambda folder: (folder / "99999999").write_text("x"), "99999999 is damaged: it is a file, not a folder"),
        (lambda folder: shutil.rmtree(folder / "20" / "optimizer"), "20 is damaged: it has no optimizer"),
        (lambda folder: shutil.rmtree(folder / "20" / "config"), "20 is damaged: it has no config"),
        (lambda folder: (folder / "20" / integrity.NAME).write_text("[]"), "its checksums.json cannot be read"),
        (
            lambda folder: (folder / "20" / integrity.NAME).write_text('{"crc32": {}}'),
            "its checksums.json has nothing of encoder",
        ),
        (
            lambda folder: (folder / "20" / integrity.NAME).unlink() or (folder / "20" / integrity.NAME).mkdir(),
            "its checksums.json cannot be read",
        ),
    ],
)
def test_what_is_no_whole_checkpoint_is_moved_away_loudly(workdir, caplog, make, what):
    make(workdir / "checkpoints")
    caplog.set_level(logging.WARNING, "simclr_jax")
    step = int(restored(workdir).step)
    assert what in caplog.text
    assert f"the run continues from step {step}." in caplog.text
    assert step == (20 if "99999999" in what else 10)
    assert len(list((workdir / integrity.ASIDE).iterdir())) == 1
    caplog.clear()
    assert int(restored(workdir).step) == step
    assert not caplog.text, "said once"


def test_a_stray_folder_stays_where_it_is(workdir, caplog):
    for name in ("notes", "\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT THREE}0"):
        (workdir / "checkpoints" / name).mkdir()
    caplog.set_level(logging.WARNING, "simclr_jax")
    assert int(restored(workdir).step) == 20
    assert (workdir / "checkpoints" / "notes").exists()
    assert not caplog.text


def test_a_file_in_place_of_the_checkpoints_is_a_line(workdir):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").write_text("")
    with pytest.raises(UserError, match="checkpoints is a file, but has to be a folder"):
        integrity.set_aside_damaged(epath.Path(workdir))


def test_a_folder_that_is_gone_under_the_run_is_a_line(workdir):
    with checkpoint.Checkpoints(epath.Path(workdir), config_lib.pretrain()) as checkpoints:
        shutil.rmtree(workdir / "checkpoints")
        with pytest.raises(StorageError, match="checkpoints is gone: somebody removed or moved it while the run"):
            checkpoints.save(30, state_at(30))


def test_nothing_is_deleted_however_often_it_happens(workdir, caplog):
    for step in (20, 10):
        (workdir / "checkpoints" / str(step) / "encoder" / "_METADATA").write_text("x")
    assert int(restored(workdir).step) == 0
    assert "the beginning: no sound checkpoint is left" in caplog.text
    with checkpoint.Checkpoints(epath.Path(workdir), config_lib.pretrain()) as checkpoints:
        checkpoints.save(20, state_at(20))
    (workdir / "checkpoints" / "20" / "encoder" / "_METADATA").write_text("y")
    restored(workdir)
    assert {path.name for path in (workdir / integrity.ASIDE).iterdir()} == {"10", "20", "20_2"}


def test_a_checkpoint_without_checksums_is_read_or_refused_in_a_line(workdir):
    for step in (10, 20):
        (workdir / "checkpoints" / str(step) / integrity.NAME).unlink()
    assert equal(restored(workdir), state_at(20))
    for file in (workdir / "checkpoints" / "20" / "optimizer").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:9])
    with pytest.raises(UserError, match=r"the checkpoint .*20 cannot be read, it may be incomplete: "):
        restored(workdir)
