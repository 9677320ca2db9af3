"""What was computed with the weights of one encoder is never used with those of another one in its place."""

import contextlib
import json
import shutil

from etils import epath
from helpers import FEW_L2
import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.inference import stream
from simclr_jax.inference.encoder import Encoder
from simclr_jax.runtime import cli
from simclr_jax.runtime.run_monitor import RunMonitor
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


def test_an_unfinished_table_is_not_continued_with_other_weights_or_images(place, image_folder, monkeypatch):
    monkeypatch.setattr(stream, "STORE_SECONDS", 0.0)
    images, starts = image_folder, []
    batches = Encoder.batches
    monkeypatch.setattr(
        Encoder,
        "batches",
        lambda self, *args, **kwargs: starts.append(kwargs.get("start_step")) or batches(self, *args, **kwargs),
    )

    def embed(*words, stop=False):
        """Returns the batch that it begins with."""
        words = (f"--pretrained={place}/pretrained", f"--images={images}", f"--output={place}/x.npz", *words)
        with monkeypatch.context() as patch:
            if stop:
                stopping = iter([False, True])
                patch.setattr(RunMonitor, "poll", lambda self: next(stopping))
            with pytest.raises(Preempted) if stop else contextlib.nullcontext():
                cli.call("embed", "--batch_size=8", *words)
        return starts[-1]

    assert embed(stop=True) == 0
    write_again(place / "pretrained", 1.01)
    with pytest.raises(
        UserError, match="beginning of another run: weights is .*Continue with the same values, or start anew"
    ):
        embed()
    assert embed("--overwrite", stop=True) == 0
    image = images / "train" / "cat" / "0.jpg"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)  # with the size that it had
    with pytest.raises(UserError, match="beginning of another run: contents is "):
        embed()
    assert embed("--overwrite", stop=True) == 0
    assert embed("--overwrite", stop=True) == 2, "a preempted job is started again by the same command"
    whole = simclr_jax.load(place / "pretrained").embed(images)
    assert embed("--overwrite") > 0
    np.testing.assert_allclose(np.load(place / "x.npz")["vector"], whole, atol=2e-6)
    # What was begun without --overwrite is discarded by it.
    (place / "x.npz").unlink()
    assert embed(stop=True) == 0
    assert embed("--overwrite") == 0


def test_a_card_has_no_results_of_other_weights(place, caplog):
    words = (f"--pretrained={place}/pretrained", "--format=safetensors", f"--output={place}/x", "--overwrite")
    top1 = f"{100 * json.loads((place / 'probe' / 'results.json').read_text())['top1']:.1f} %"
    cli.call("export", *words)
    assert f"| linear probe | digits | 1437 | top-1 | {top1} | 360 |" in (place / "x" / "README.md").read_text()
    write_again(place / "pretrained", 1.01)
    cli.call("export", *words)
    text = (place / "x" / "README.md").read_text()
    assert "linear probe" not in text
    assert "model-index" not in text
    said = f"{place}/probe is of an encoder with other weights than the one in {place}/pretrained/checkpoints/9: its results"
    assert caplog.text.count(said) == 1
    (place / "probe" / "data.json").unlink()  # as of a version that did not write it
    cli.call("export", *words)
    assert top1 in (place / "x" / "README.md").read_text()


def test_a_card_has_no_config_of_another_pretraining(place, caplog):
    few = "--config=configs/digits_finetune.py:0.1,steps=2"
    cli.call("finetune", f"--pretrained={place}/pretrained", f"--workdir={place}/finetuned", few)
    words = (f"--pretrained={place}/finetuned/draw_0", "--format=safetensors", f"--output={place}/x", "--overwrite")
    cli.call("export", *words)
    assert "loss.temperature" in (place / "x" / "README.md").read_text()
    write_again(place / "pretrained", 1.01)
    cli.call("export", *words)
    assert "loss.temperature" not in (place / "x" / "README.md").read_text()
    assert f"{place}/finetuned is of an encoder with other weights" in caplog.text


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
