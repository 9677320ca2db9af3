"""Load an encoder from what the commands leave, and use it: the same numbers as in an evaluation."""

import dataclasses
import json
import shutil

from etils import epath
from helpers import FEW_L2
from helpers import REPOSITORY
from helpers import UNTRAINED
from helpers import mesh_of
from helpers import write_image
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation.setup import set_up
from simclr_jax.inference import encoder as encoder_lib
from simclr_jax.inference import images as images_lib
from simclr_jax.runtime import cli
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import predictions

pytestmark = pytest.mark.slow  # for the runs that all tests use


@pytest.fixture(scope="module")
def runs(once, digits_run):
    """A folder with a run of each kind: pretrained, probe, probe_z, sgd, finetuned (two subsets)."""

    def make(top):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)
            shutil.copytree(digits_run, top / "pretrained")
            run = f"--pretrained={top}/pretrained"
            cli.call("linear_probe", run, f"--workdir={top}/probe", *FEW_L2)
            cli.call("linear_probe", run, f"--workdir={top}/probe_z", "--config.features=z", *FEW_L2)
            sgd = "--config=configs/linear_probe.py:sgd,batch=64,epochs=1"
            cli.call("linear_probe", run, f"--workdir={top}/sgd", sgd, "--config.label_fraction=0.1")
            few = "--config=configs/digits_finetune.py:0.1,steps=3"
            two = ("--config.features=g1", "--config.label_seeds=3,5")
            cli.call("finetune", run, f"--workdir={top}/finetuned", few, *two)

    return once("runs_of_each_kind", make)


@pytest.fixture(scope="module")
def test_source(runs):
    return setup_of(runs, runs / "nowhere").test


def setup_of(runs, workdir, **fields):
    config = config_lib.linear_probe()
    config.update(fields)
    return set_up(config, epath.Path(workdir), str(runs / "pretrained"), config_lib.linear_probe(), RunMonitor())


def pixels_of(source):
    return np.stack([source.fetch(row).numpy() for row in range(source.num_examples)])


@pytest.mark.parametrize("features", ["h", "z", "g1"])
def test_features_are_those_of_an_evaluation(runs, tmp_path, features):
    setup = setup_of(runs, tmp_path, features=features)
    expected = setup.features(setup.test).values
    encoder = simclr_jax.load(runs / "pretrained")
    encoder.features = features
    images = pixels_of(setup.test)
    given = encoder.embed(images)
    assert given.dtype == np.float32
    assert given.shape == (360, encoder.num_features)
    np.testing.assert_allclose(given, expected, atol=2e-6)
    floats = images / np.float32(255)
    np.testing.assert_allclose(encoder(floats), expected, atol=5e-6)
    np.testing.assert_allclose(encoder(jnp.asarray(floats)), expected, atol=5e-6)


def test_one_device_and_several_give_the_same(runs):
    images = np.random.default_rng(0).random((21, 8, 8, 3), np.float32)
    one, several = (simclr_jax.load(runs / "pretrained", mesh=mesh_of(count)) for count in (1, 8))
    np.testing.assert_allclose(one(images), several(images), atol=2e-6)


def test_any_number_of_images_compiles_for_a_few_sizes_only(runs, monkeypatch):
    monkeypatch.setattr(encoder_lib, "SIZES", (1, 4, 8))
    encoder = simclr_jax.load(runs / "pretrained", mesh=mesh_of(1))
    images = np.random.default_rng(0).random((21, 8, 8, 3), np.float32)
    every = np.asarray(encoder(images))
    seen = []
    for number in range(1, 22):
        np.testing.assert_allclose(encoder(images[:number]), every[:number], atol=2e-6)
        seen.append(encoder.batch_size(number))
    assert set(seen) == {1, 4, 8}
    traced = jax.make_jaxpr(encoder)(images[:3])
    assert traced.out_avals[0].shape == (3, 64)
    gradient = jax.grad(lambda images: encoder(images).sum())(jnp.asarray(images[:2]))
    assert np.any(np.asarray(gradient) != 0)


@pytest.mark.parametrize(
    ("place", "subset"),
    [
        ("probe", "draw_0"),
        ("probe/draw_0", ""),
        ("probe_z", "draw_0"),
        ("sgd", "draw_0"),
        ("sgd/draw_0/checkpoints/3", "../.."),
        ("finetuned/draw_5", ""),
    ],
)
def test_predictions_are_those_of_the_evaluation(runs, test_source, place, subset):
    expected = predictions.read(epath.Path(runs / place / subset))
    encoder = simclr_jax.load(runs / place)
    classes, probabilities = encoder.predict(pixels_of(test_source))
    assert encoder.class_names == list("0123456789")
    assert classes == [str(number) for number in expected.predicted]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert encoder.embed(test_source.fetch(0).numpy()).shape == (1, 64)  # h, whatever the classifier sees


def test_where_an_image_has_several_classes_each_has_its_own_probability(runs, test_source):
    encoder = simclr_jax.load(runs / "probe")
    saved = dataclasses.replace(encoder.saved, several_classes=True)
    several = encoder_lib.Encoder(saved, encoder.config, encoder.variables, encoder.mesh)
    images = pixels_of(test_source)[:4]
    one_of, each = (one.predict(images).probabilities.astype(np.float64) for one in (encoder, several))
    # A softmax is the exponential of the logits up to a factor.
    np.testing.assert_allclose(np.ptp(np.log(each / (1 - each)) - np.log(one_of), axis=1), 0, atol=1e-3)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_folded_classifier_has_the_probabilities_of_scikit_learn(classes, standardize):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 200).astype(np.int32) + 1  # class 0 has no example
    features = (labels[:, None] + rng.normal(size=(200, 4)) * [1, 2, 3, 0]).astype(np.float32)
    options = config_lib.linear_probe().lbfgs
    options.update(l2_values=1, standardize=standardize)
    fitted, _ = logistic_regression.fit(features, labels, options, seed=0)
    kernel, bias = logistic_regression.folded(fitted, classes + 1)
    given = np.asarray(jax.nn.softmax(features @ kernel + bias))
    expected = fitted.classifier.predict_proba(fitted.scaler.transform(features))
    np.testing.assert_allclose(given[:, 1:], expected, atol=1e-5)
    assert np.all(given[:, 0] == 0)


def test_the_saved_classifier_says_what_it_is(runs):
    lbfgs = classifiers.read(epath.Path(runs / "probe_z" / "draw_0"))
    assert (lbfgs.kernel.shape, lbfgs.bias.shape, lbfgs.features) == ((128, 10), (10,), "z")
    assert lbfgs.l2 > 0
    sgd = classifiers.read(epath.Path(runs / "sgd" / "draw_0"))
    assert (sgd.kernel.shape, sgd.l2, sgd.class_names) == ((64, 10), None, list("0123456789"))


def test_a_probe_of_an_untrained_encoder_is_built_again(tmp_path):
    untrained = [*UNTRAINED, "--config.model.stem=cifar", "--config.seed=3"]
    cli.call("linear_probe", f"--workdir={tmp_path}", *untrained, *FEW_L2)
    expected = predictions.read(epath.Path(tmp_path / "draw_0"))
    from simclr_jax.data.sources.digits import open_digits

    classes, _ = simclr_jax.load(tmp_path).predict(pixels_of(open_digits("test")))
    assert classes == [str(number) for number in expected.predicted]


def test_a_moved_probe_is_told_where_its_encoder_is(runs, tmp_path):
    probe = tmp_path / "probe"
    shutil.copytree(runs / "probe", probe)
    config = json.loads((probe / "config.json").read_text())
    config["pretrained"] = str(tmp_path / "gone")
    (probe / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"gone, where no checkpoint is now: say where it is"):
        simclr_jax.load(probe)
    assert simclr_jax.load(probe, pretrained=runs / "pretrained").class_names == list("0123456789")


def test_names_of_older_checkpoints_are_those_of_the_predictions(runs, tmp_path):
    shutil.copytree(runs / "finetuned" / "draw_3", tmp_path / "draw_3")
    path = checkpoint.find(str(tmp_path / "draw_3"))
    (path / "classes").rmtree()
    (tmp_path / "draw_3" / "predictions.npz").unlink()
    names = [f"digit {number}" for number in range(10)]
    predictions.write(epath.Path(tmp_path / "draw_3"), np.arange(1), np.arange(1), np.arange(1), names)
    assert simclr_jax.load(path).class_names == names
    (tmp_path / "draw_3" / "predictions.npz").unlink()
    assert simclr_jax.load(path).class_names == list("0123456789")


def test_images_of_every_form_give_the_same(runs, tmp_path):
    encoder = simclr_jax.load(runs / "pretrained")
    path = write_image(tmp_path / "some" / "a.png", size=(23, 17))
    image = Image.open(path)
    pixels = np.asarray(image)
    expected = encoder.embed(str(path))
    forms = [path, image, pixels]
    np.testing.assert_array_equal(encoder.embed(forms), np.repeat(expected, 3, axis=0))
    for one in (*forms, tmp_path / "some", [str(path)], iter([image]), pixels[None]):
        np.testing.assert_array_equal(encoder.embed(one), expected)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(encoder.embed(grey), encoder.embed(np.repeat(grey[..., None], 3, axis=-1)))
    assert encoder.embed([]).shape == (0, 64)


def test_an_iterator_is_read_in_chunks(runs, monkeypatch):
    monkeypatch.setattr(images_lib, "CHUNK", 4)
    encoder = simclr_jax.load(runs / "pretrained", mesh=mesh_of(1))
    images = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(encoder.embed(iter(images)), encoder.embed(images), atol=2e-6)
    lengths = [source.num_examples for source in images_lib.sources_of(image for image in images)]
    assert lengths == [4, 4, 2]
    monkeypatch.setattr(images_lib, "CHUNK_BYTES", 400)
    lengths = [source.num_examples for source in images_lib.sources_of(image for image in images)]
    assert lengths == [2] * 5


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing", "'.*missing' does not exist"),
        ("", "is neither the workdir of a run with a finished checkpoint"),
        ("finetuned", "one classifier for each subset of the labels: choose one of draw_3, draw_5"),
        ("probe/config.json", "is a file, but has to be the workdir"),
        ("knn", r"is a run of simclr_jax.knn, which keeps no weights. Load the encoder that it evaluated: /some/1\."),
        ("old", "a linear probe without the weights .* the same command of simclr_jax.linear_probe again writes them"),
        ("broken", "the checkpoint .*/9 is damaged: its file encoder/.* is not as it was written"),
        ("no_config", "the checkpoint .*/9 is damaged: it has no config"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(runs, tmp_path, place, message):
    (tmp_path / "finetuned").symlink_to(runs / "finetuned")
    (tmp_path / "pretrained").symlink_to(runs / "pretrained")
    (tmp_path / "probe").symlink_to(runs / "probe")
    runs = tmp_path  # the folder of all tests stays as it is
    for name, fields in (("knn", {"kind": "knn"}), ("old", {"kind": "linear_probe", "protocol": "lbfgs"})):
        (runs / name / "draw_0").mkdir(parents=True, exist_ok=True)
        (runs / name / "config.json").write_text(json.dumps(fields | {"pretrained": "/some/1"}))
    for name in ("broken", "no_config"):
        shutil.copytree(runs / "pretrained", runs / name, dirs_exist_ok=True)
    for file in (runs / "broken").glob("checkpoints/9/encoder/ocdbt.process_0/d/*"):
        file.write_bytes(file.read_bytes()[:50])
    shutil.rmtree(runs / "no_config" / "checkpoints" / "9" / "config")
    with pytest.raises(UserError, match=message) as refused:
        simclr_jax.load(runs / place)
    assert "\n" not in str(refused.value)


def test_mistakes_in_use_are_one_line(runs, tmp_path):
    encoder = simclr_jax.load(runs / "pretrained")
    (tmp_path / "bad.png").write_text("no image")
    good = write_image(tmp_path / "good.png")
    floats = np.zeros([2, 8, 8, 3], np.float32)
    picture = Image.open(good)
    wide = Image.fromarray(np.linspace(0, 200, 64, dtype=np.float32).reshape(8, 8))
    wrong = [
        (
            lambda: encoder.predict([good]),
            "has no classifier, only an encoder. Train one .* by simclr_jax.linear_probe",
        ),
        (lambda: encoder.embed([good, tmp_path / "bad.png"]), "cannot read the image .*bad.png: it is not an image"),
        (lambda: encoder.embed([good, tmp_path / "\udcff.png"]), r"udcff.png. is not UTF-8: rename it"),
        (lambda: encoder.embed([good, tmp_path / "none.png"]), "the image '.*none.png' does not exist"),
        (lambda: encoder.embed(tmp_path / "none"), "none' does not exist"),
        (lambda: encoder.embed(REPOSITORY / "tests" / "inference"), "no images in '.*inference'"),
        (lambda: encoder.embed(""), "the path of an image is empty"),
        (lambda: encoder.embed([""]), "the path of an image is empty"),
        (lambda: encoder.embed(iter([good, ""])), "the path of an image is empty"),
        (lambda: encoder.embed(3), "not builtins.int"),
        (lambda: encoder.embed([floats[0]]), "is uint8, but one is float32"),
        (lambda: encoder.embed([np.zeros([3, 8, 8], np.uint8)]), r"but one has the shape \[3, 8, 8\]"),
        (lambda: encoder(floats[0]), r"takes an array \[n, height, width, 3\], not \[8, 8, 3\]"),
        (lambda: encoder(floats.astype(np.uint8)), "floats in .0, 1., not uint8"),
        (lambda: encoder(floats + 255), "values go from 255 to 255: divide by 255"),
        (lambda: encoder(jnp.asarray(floats + 255)), "values go from 255 to 255: divide by 255"),
        (lambda: encoder(jnp.asarray(floats + 255, jnp.bfloat16)), "divide by 255"),
        (lambda: encoder(floats + 5000), "divide by the value of white, 65535 for 16 bits"),
        (lambda: encoder(floats + 3), r"values go from 3 to 3: scale them to \[0, 1\]"),
        (lambda: encoder(floats - 1), "values go from -1 to -1: add 1 and divide by 2"),
        (
            lambda: encoder(jnp.linspace(-2, 2.5, floats.size).reshape(floats.shape)),
            "from -2 to 2.5, as standardised images",
        ),
        (lambda: encoder(np.where(np.arange(3) == 1, np.nan, floats)), "some values are NaN or infinite"),
        (lambda: encoder(jnp.full(floats.shape, jnp.inf)), "some values are NaN or infinite"),
        (
            lambda: encoder.embed([picture, wide]),
            "cannot read the image number 1: .* values go from 0 to 200: divide by 255",
        ),
        (lambda: setattr(encoder, "features", "y"), "features are 'y', but must be 'h', 'z'"),
        (lambda: setattr(encoder, "features", "g3"), r"'g3', but the projection head has 2 layer"),
        (lambda: setattr(simclr_jax.load(runs / "sgd"), "features", "z"), "has no projection head"),
        (lambda: simclr_jax.load(runs / "pretrained", compute_dtype="int8"), "compute_dtype is 'int8'"),
        (lambda: simclr_jax.load(runs / "pretrained", compute_dtype="float64"), "'float64', but JAX has 32 bits here"),
        (lambda: simclr_jax.load(None), "the path is None, but must be the workdir of a run or one checkpoint"),
        (lambda: simclr_jax.load(3), "the path is 3, but"),
        (lambda: simclr_jax.load(b"/tmp"), "the path is b'/tmp', but"),
        (lambda: simclr_jax.load(""), "the path is '', but"),
        (lambda: simclr_jax.load(runs / "pretrained", pretrained=3), "pretrained is 3, but"),
    ]
    for do, message in wrong:
        with pytest.raises(UserError, match=message) as refused:
            do()
        assert "\n" not in str(refused.value)


def test_values_are_checked_where_they_are_known(runs):
    encoder = simclr_jax.load(runs / "pretrained")
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    for near in (images, images * 1.4 - 0.2):  # as a resize leaves them
        given = jax.jit(encoder)(near)
        np.testing.assert_allclose(encoder(near), given, atol=1e-5)
        np.testing.assert_allclose(jax.jit(lambda constant=near: encoder(jnp.asarray(constant)))(), given, atol=1e-5)
    with pytest.raises(UserError, match="divide by 255"):
        jax.jit(lambda: encoder(255 * images))()
    assert np.all(np.isfinite(jax.jit(encoder)(255 * images))), "no value is known"


def test_other_commands_suggest_the_subsets_of_a_finetuned_run(runs, tmp_path):
    with pytest.raises(UserError, match=r"choose one of draw_3, draw_5, as in --pretrained=.*finetuned/draw_3\."):
        cli.call("knn", f"--pretrained={runs}/finetuned", f"--workdir={tmp_path}")
    results = cli.call("knn", f"--pretrained={runs}/finetuned/draw_3", f"--workdir={tmp_path}", "--config.map_points=0")
    assert results["n"] == 360
    with pytest.raises(UserError, match="has no projection head; only h can be used"):
        cli.call("knn", f"--pretrained={runs}/sgd/draw_0", f"--workdir={tmp_path}", "--config.features=z")
