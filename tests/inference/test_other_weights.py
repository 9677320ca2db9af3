"""What was computed with the weights of one encoder is never used with those of another one in its place."""

import json
import shutil

from etils import epath
from helpers import FEW_L2
import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.training import checkpoint
from simclr_jax.workdir import classifiers

pytestmark = pytest.mark.slow  # for the runs that all tests use


@pytest.fixture
def place(runs, tmp_path):
    """A folder with a copy of the two runs, in which the probe is of the encoder beside it."""
    shutil.copytree(runs / "pretrained", tmp_path / "pretrained", ignore=shutil.ignore_patterns("compilation_cache"))
    shutil.copytree(runs / "probe", tmp_path / "probe")
    config = json.loads((tmp_path / "probe" / "config.json").read_text())
    config["pretrained"] = str(tmp_path / "pretrained" / "checkpoints" / "9")
    (tmp_path / "probe" / "config.json").write_text(json.dumps(config))
    return epath.Path(tmp_path)


def write_again(workdir, factor=1.0, step=9):
    """Replaces the checkpoint of a run: its weights times a factor."""
    encoder = simclr_jax.load(workdir)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(factor), encoder.variables)
    (workdir / "checkpoints").rmtree()
    checkpoint.write(workdir, encoder.saved.config, step, variables, None)


def forget(draw):
    """Makes a classifier one of a version that did not say of which encoder it is."""
    with np.load(draw / "classifier.npz") as saved:
        np.savez(draw / "classifier.npz", **{name: saved[name] for name in saved.files if name != "encoder"})


def test_a_classifier_is_refused_on_other_weights(place):
    before = simclr_jax.load(place / "probe").predict(np.zeros([1, 8, 8, 3], np.uint8)).probabilities
    write_again(place / "pretrained")  # the same weights in other files
    after = simclr_jax.load(place / "probe").predict(np.zeros([1, 8, 8, 3], np.uint8)).probabilities
    np.testing.assert_array_equal(before, after)
    write_again(place / "pretrained", 1.01)
    said = (
        "the encoder in .*pretrained/checkpoints/9 has other weights than the one that was probed, at step 9. Say where"
    )
    for folder in ("probe", "probe/draw_0"):
        with pytest.raises(UserError, match=said):
            simclr_jax.load(place / folder)
    words = (f"--finetuned={place}/probe", "--images=digits:test", f"--output={place}/x.csv")
    with pytest.raises(UserError, match=f"--finetuned='.*probe/draw_0': {said}"):
        cli.call("predict", *words)
    assert not (place / "x.csv").exists()
    forget(place / "probe" / "draw_0")  # then data.json says it
    with pytest.raises(UserError, match=said):
        simclr_jax.load(place / "probe")
    (place / "probe" / "data.json").unlink()  # as of a version that did not compare
    assert simclr_jax.load(place / "probe").class_names == list("0123456789")


def test_the_probed_step_is_used_where_it_is_still_there(runs, place):
    write_again(place / "pretrained", 1.01, step=18)
    later = place / "pretrained" / "checkpoints"
    with pytest.raises(
        UserError, match=r"checkpoints/9, where no checkpoint is now: .* or probe an encoder that is there"
    ):
        simclr_jax.load(place / "probe")
    with pytest.raises(UserError, match=r"checkpoints/18 has other weights than the one that was probed, at step 9"):
        simclr_jax.load(place / "probe", pretrained=place / "pretrained")
    shutil.copytree(runs / "pretrained" / "checkpoints" / "9", later / "9")
    assert simclr_jax.load(place / "probe").step == 9
    assert simclr_jax.load(place / "probe", pretrained=place / "pretrained").step == 9
    with pytest.raises(UserError, match="has other weights"):
        simclr_jax.load(place / "probe", pretrained=later / "18")


def test_each_label_subset_knows_its_encoder(place):
    probe, draw = place / "probe", place / "probe" / "draw_0"
    shutil.copytree(draw, probe / "draw_1")
    with pytest.raises(UserError, match=r"draw_1.* is of an earlier run: .* has config.label_seeds=\(0,\)"):
        simclr_jax.load(probe / "draw_1")
    assert simclr_jax.load(probe).path == str(draw), "the one subset of the run"
    config = json.loads((probe / "config.json").read_text())
    (probe / "config.json").write_text(json.dumps(config | {"label_seeds": [0, 1]}))
    with pytest.raises(UserError, match="choose one of draw_0, draw_1"):
        simclr_jax.load(probe)
    # One of them is fitted to the weights that are there now, which is what data.json says.
    write_again(place / "pretrained", 1.01)
    now = checkpoint.identity(place / "pretrained" / "checkpoints" / "9", "encoder")
    record = json.loads((probe / "data.json").read_text())
    (probe / "data.json").write_text(json.dumps(record | {"encoder": now}))
    saved = classifiers.read(draw)
    classifiers.write(draw, classifiers.SavedClassifier(**(vars(saved) | {"encoder": now})))
    simclr_jax.load(draw)
    with pytest.raises(UserError, match="draw_1.*has other weights"):
        simclr_jax.load(probe / "draw_1")


def test_a_probe_of_an_untrained_encoder_keeps_its_seed(place):
    words = (f"--pretrained={place}/pretrained", f"--workdir={place}/untrained", "--config.init=random", *FEW_L2)
    cli.call("linear_probe", *words)
    images = np.random.default_rng(0).integers(0, 256, [5, 8, 8, 3], np.uint8)
    before = simclr_jax.load(place / "untrained").predict(images).probabilities
    encoder = simclr_jax.load(place / "pretrained")
    config = encoder.saved.config.copy_and_resolve_references()
    config.seed = 5
    (place / "pretrained" / "checkpoints").rmtree()
    checkpoint.write(place / "pretrained", config, 9, jax.device_get(encoder.variables), None)
    after = simclr_jax.load(place / "untrained").predict(images).probabilities
    np.testing.assert_array_equal(before, after)
