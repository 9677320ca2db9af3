"""Linear probe, nearest neighbours and fine-tuning of one small pretrained encoder."""

import json
import shutil
from unittest import mock

from etils import epath
from helpers import REPOSITORY
from helpers import UNTRAINED
from helpers import write_image
import jax
import numpy as np
import pytest
import threadpoolctl

from simclr_jax import config as config_lib
from simclr_jax import errors
from simclr_jax import knn
from simclr_jax.evaluation import few_labels
from simclr_jax.evaluation import label_subsets
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation import supervised
from simclr_jax.evaluation.setup import set_up
from simclr_jax.reporting import pictures
from simclr_jax.runtime import cli
from simclr_jax.runtime import run_monitor
from simclr_jax.training import checkpoint
from simclr_jax.workdir import metrics_file
from simclr_jax.workdir import predictions

PROBE = "--config=configs/linear_probe.py:lbfgs"
FEW_L2 = ("--config.lbfgs.l2_values=4", "--config.lbfgs.max_iterations=50")


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_repository")]


@pytest.fixture
def pretrained(digits_run):
    return digits_run


def setup_of(tmp_path, pretrained, schema=config_lib.linear_probe, **fields):
    config = schema()
    config.update(fields)
    return set_up(config, epath.Path(tmp_path), str(pretrained), schema(), run_monitor.RunMonitor())


def assert_trees_equal(some, others):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(some), jax.device_get(others))


def test_the_encoder_that_is_evaluated_is_the_saved_one(tmp_path, pretrained):
    setup = setup_of(tmp_path, pretrained)
    path = checkpoint.find(str(pretrained))
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(path / "encoder")
    assert_trees_equal(setup.params["encoder"], saved["params"])
    assert_trees_equal(setup.batch_stats["encoder"], saved["batch_stats"])
    untrained = setup_of(tmp_path, pretrained, init="random")
    assert jax.tree.structure(untrained.params) == jax.tree.structure(setup.params)
    assert np.all(untrained.batch_stats["encoder"]["stem_bn"]["mean"] == 0)


def test_features_h_and_z(tmp_path, pretrained):
    h = setup_of(tmp_path, pretrained, batch_size=64)
    z = setup_of(tmp_path, pretrained, batch_size=64, features="z")
    outputs = {name: setup.features(setup.test) for name, setup in {"h": h, "z": z}.items()}
    assert outputs["h"].values.shape == (360, 64)
    assert outputs["z"].values.shape == (360, 128)
    np.testing.assert_array_equal(outputs["h"].labels, h.test.labels)
    again = setup_of(tmp_path, pretrained, batch_size=120).features(h.test)
    np.testing.assert_allclose(again.values, outputs["h"].values, atol=1e-5)


def test_the_last_layer_of_the_head_is_z_and_a_hidden_one_is_rectified(tmp_path, pretrained):
    outputs = {}
    for features in ("g1", "g2", "z"):
        setup = setup_of(tmp_path, pretrained, batch_size=64, features=features)
        outputs[features] = setup.features(setup.test).values
    np.testing.assert_array_equal(outputs["g2"], outputs["z"])
    assert outputs["g1"].shape == (360, 64)
    assert outputs["g1"].min() == 0
    # What is behind it: a dense layer and a BatchNorm of stored statistics and no offset.
    head, stats = setup.params["head"], setup.batch_stats["head"]["bn2"]
    z = outputs["g1"] @ head["dense2"]["kernel"]
    z = (z - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * head["bn2"]["scale"]
    np.testing.assert_allclose(z, outputs["z"], atol=1e-4)


def test_lbfgs_probe(tmp_path, pretrained):
    results = cli.call("linear_probe", f"--pretrained={pretrained}", f"--workdir={tmp_path}", *FEW_L2)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert {"top1", "top5", "n", "seconds", "step"} <= results.keys()
    assert (results["n"], results["protocol"], results["features"]) == (360, "lbfgs", "h")
    assert results["top1"] > 0.5, "even a hardly trained encoder tells most digits"
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["data"]["source"] == "digits"
    assert written["pretrained"].endswith("checkpoints/9")
    (line,) = metrics_file.read(epath.Path(tmp_path / "metrics.jsonl"))
    assert (line["step"], line["top1"]) == (9, results["top1"])
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("features", ["h", "z"])
def test_sgd_probe_trains_the_classifier_only(tmp_path, pretrained, features):
    results = cli.call(
        "linear_probe",
        f"--pretrained={pretrained}/checkpoints/9",
        f"--workdir={tmp_path}",
        "--config=configs/linear_probe.py:sgd,batch=64,epochs=1",
        f"--config.features={features}",
    )
    assert results["step"] == 1437 // 64 + 1
    lines = metrics_file.read(epath.Path(tmp_path / "draw_0" / "metrics.jsonl"))
    assert lines[-1]["grad_norm"] > 0
    setup = setup_of(tmp_path / "other", pretrained, features=features)
    assert set(setup.params) == ({"encoder"} if features == "h" else {"encoder", "head"})
    path = checkpoint.find(str(tmp_path / "draw_0"))
    params, batch_stats = checkpoint.load_parts(path, setup.params, setup.batch_stats)
    assert_trees_equal(params, setup.params)
    assert_trees_equal(batch_stats, setup.batch_stats)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_finds_separable_classes_and_missing_ones_score_lowest(classes):
    rng = np.random.default_rng(0)
    centres = 6 * np.eye(classes + 1, dtype=np.float32)
    labels = rng.integers(0, classes, 200).astype(np.int32)
    features = centres[labels] + rng.normal(size=(200, classes + 1)).astype(np.float32)
    options = config_lib.linear_probe().lbfgs
    options.l2_values = 5
    classifier, l2 = logistic_regression.fit(features, labels, options, seed=0)
    assert l2 in np.geomspace(1e-6, 1e5, 5)
    scores = logistic_regression.scores(classifier, features, classes + 1)
    assert np.mean(np.argmax(scores, axis=1) == labels) > 0.98
    assert np.all(scores[:, classes] == -np.inf)


@pytest.mark.parametrize(("rows", "alone"), [(1_000, True), (200_000_000, False)])
def test_small_products_run_in_one_thread(rows, alone):
    class Classifier:
        def fit(self, features, labels):
            return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}

    features, labels = np.broadcast_to(np.float32(1), (rows, 128)), np.array([0, 1])
    with threadpoolctl.threadpool_limits(2):
        assert logistic_regression._fit(Classifier(), features, labels) == ({1} if alone else {2})


def test_the_l2_penalty_is_as_documented():
    """At the solution, the gradient of the sum of cross entropies + l2 / 2 |w|^2 is zero."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 4))
    labels = rng.integers(0, 3, 60).astype(np.int32)
    options = config_lib.linear_probe().lbfgs
    options.update(l2_values=1, l2_max=5.0, l2_min=1.25, standardize=False)
    classifier, l2 = logistic_regression.fit(features, labels, options, seed=0)
    assert l2 == 2.5
    scores = logistic_regression.scores(classifier, features, 3)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradient = (probabilities - np.eye(3)[labels]).T @ features + l2 * classifier.classifier.coef_
    assert np.max(np.abs(gradient)) < 0.05


def test_the_scale_of_features_does_not_matter_when_they_are_standardised():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    labels = (features @ rng.normal(size=6) > 0).astype(np.int32)
    options = config_lib.linear_probe().lbfgs
    options.l2_values = 4
    tiny = features * np.array([1e-4, 1, 1e-2, 1e-3, 1e2, 1], np.float32) + 0.3
    accuracies = []
    for values in (features, tiny):
        classifier, _ = logistic_regression.fit(values, labels, options, seed=0)
        accuracies.append(logistic_regression.top1(logistic_regression.scores(classifier, values, 2), labels))
    assert min(accuracies) > 0.95


def test_weighted_votes_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    labels = rng.integers(0, 4, 30).astype(np.int32)
    votes = knn.weighted_votes(train, labels, test, 4, neighbours=5, temperature=0.2)
    for row, image in enumerate(test):
        cosine = train @ image / np.linalg.norm(train, axis=1) / np.linalg.norm(image)
        expected = np.zeros(4)
        for index in np.argsort(-cosine)[:5]:
            expected[labels[index]] += np.exp((cosine[index] - cosine.max()) / 0.2)
        np.testing.assert_allclose(votes[row], expected, rtol=1e-4)
    assert knn.weighted_votes(train[:3], labels[:3], test, 4, neighbours=20, temperature=0.2).shape == (7, 4)


def test_votes_do_not_underflow():
    """At this temperature exp((0.6 - 1) / T) is 0 in float32, and every image would be of class 0."""
    train = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    test = np.array([[0.6, -0.8], [-0.8, 0.6]], np.float32)
    votes = knn.weighted_votes(train, np.array([2, 1], np.int32), test, 3, neighbours=2, temperature=0.002)
    np.testing.assert_array_equal(votes, [[0, 0, 1], [0, 1, 0]])


def test_knn_writes_pictures_and_predictions(tmp_path, pretrained, monkeypatch):
    shown = []
    monkeypatch.setattr(knn.pictures, "neighbours", lambda *parts: shown.extend(parts))
    results = cli.call("knn", f"--pretrained={pretrained}", f"--workdir={tmp_path}", "--config.map_points=60")
    assert results["top1"] > 0.5
    assert (tmp_path / "embedding_map.png").exists()
    made = predictions.read(epath.Path(tmp_path / "draw_0"))
    np.testing.assert_array_equal(made.index, np.arange(360))
    assert np.mean(made.predicted == made.label) == pytest.approx(results["top1"])
    confusion = made.confusion()
    assert confusion.shape == (10, 10)
    assert confusion.sum() == 360
    each = np.diag(confusion) / confusion.sum(axis=1)
    assert results["mean_per_class"] == pytest.approx(each.mean())
    # The images in the picture of neighbours are the ones that it says.
    images, names, nearest, names_of_nearest, path = shown
    assert nearest.shape == (8, 8, 8, 8, 3)
    setup = setup_of(tmp_path / "again", pretrained, config_lib.knn)
    train, test = (setup.features(source).values for source in (setup.train, setup.test))
    train, test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
    row = np.random.default_rng(0).permutation(360)[0]
    best = np.argmax(train @ test[row])
    np.testing.assert_array_equal(images[0], setup.test.fetch(row).numpy())
    np.testing.assert_array_equal(nearest[0, 0], setup.train.fetch(best).numpy())
    assert (names[0], names_of_nearest[0][0]) == (str(setup.test.labels[row]), str(setup.train.labels[best]))
    monkeypatch.undo()
    pictures.neighbours(images, names, nearest, names_of_nearest, path)
    assert (tmp_path / "neighbours.png").stat().st_size > 10_000


def test_the_mean_over_classes_counts_each_class_alike():
    right, labels = np.array([1, 1, 1, 0, 0], bool), np.array([0, 0, 0, 0, 3])
    assert metrics.mean_per_class(right, labels) == pytest.approx((3 / 4 + 0) / 2)


def test_knn_with_few_labels(tmp_path, pretrained):
    results = cli.call("knn", f"--pretrained={pretrained}", f"--workdir={tmp_path}", "--config.map_points=0")
    few = cli.call(
        "knn",
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path / 'few'}",
        "--config.map_points=0",
        "--config.shown_images=0",
        "--config.label_fraction=0.01",
        "--config.label_seeds=0,1,2",
    )
    assert [draw["labels"] for draw in few["draws"]] == [10, 10, 10]
    assert few["top1"] < results["top1"]


def test_finetune_draws_resume_and_write_their_labels(tmp_path, pretrained, monkeypatch):
    arguments = (
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path}",
        "--config=configs/digits_finetune.py:0.01,steps=6",
        "--config.label_seeds=3,5",
        "--config.checkpoint.every_steps=2",
    )
    results = cli.call("finetune", *arguments)
    assert [draw["seed"] for draw in results["draws"]] == [3, 5]
    assert results["top1"] == pytest.approx(np.mean([draw["top1"] for draw in results["draws"]]))
    assert results["top1_std"] == pytest.approx(np.std([draw["top1"] for draw in results["draws"]], ddof=1))
    chosen = [json.loads((tmp_path / f"draw_{seed}" / "labels.json").read_text())["examples"] for seed in (3, 5)]
    assert [len(examples) for examples in chosen] == [10, 10]
    assert chosen[0] != chosen[1]
    assert sorted(example["label"] for example in chosen[0]) == list("0123456789")

    # A finished run is not trained again.
    def no_training(run):
        assert int(run.state.step) == run.total_steps
        return run.state

    monkeypatch.setattr(supervised.loop, "fit", no_training)
    again = cli.call("finetune", *arguments)
    assert [draw["top1"] for draw in again["draws"]] == [draw["top1"] for draw in results["draws"]]


FEW = ("--config=configs/finetune.py:1.0,batch=16,steps=4,epochs=1", "--config.lbfgs.l2_values=2")


def test_finetuning_starts_from_the_frozen_probe(tmp_path, pretrained):
    """At a learning rate of almost 0 its predictions are the linear probe's, in both its choices: classifier and statistics."""
    probe = ("--config.labels_per_class=4", "--config.lbfgs.l2_values=2", "--config.lbfgs.l2_min=0.01")
    probe += ("--config.lbfgs.l2_max=10000",)
    cli.call("linear_probe", f"--pretrained={pretrained}", f"--workdir={tmp_path / 'probe'}", *probe)
    rate = ("--config.learning_rates=1e-9", "--config.optimizer.learning_rate=1e-9")
    arguments = (f"--pretrained={pretrained}", *FEW, "--config.labels_per_class=4", *rate)
    tuned = cli.call("finetune", *arguments, f"--workdir={tmp_path / 'tuned'}")
    assert tuned["draws"][0]["learning_rate"] == 1e-9
    ours, probes = (np.load(tmp_path / name / "draw_0" / "predictions.npz") for name in ("tuned", "probe"))
    np.testing.assert_array_equal(ours["predicted"], probes["predicted"])


def test_the_learning_rate_is_chosen_on_held_out_labels(tmp_path, pretrained, monkeypatch):
    said = []
    monkeypatch.setattr(few_labels.log, "info", lambda text, *values: said.append(text % values))
    rates = ("--config.learning_rates=1e-9,0.01,1e30", "--config.optimizer.learning_rate=0.01")
    arguments = (f"--pretrained={pretrained}", f"--workdir={tmp_path}", *FEW, "--config.labels_per_class=5", *rates)
    results = cli.call("finetune", *arguments)
    (draw,) = results["draws"]
    assert draw["held_out"].keys() == {"1e-09", "0.01", "1e+30"}
    assert draw["held_out"]["1e+30"] == 0
    assert any(line.startswith("Learning rate 1e+30 is too large: ") for line in said), "and the run goes on"
    assert draw["held_out"][f"{draw['learning_rate']:g}"] == max(draw["held_out"].values())
    assert any(line.startswith("50 labels: 4 steps of 16 images, by config.min_steps: ") for line in said)
    assert not (tmp_path / "draw_0" / "learning_rates" / "0.01" / "checkpoints").exists()

    def no_training(run):
        assert int(run.state.step) == run.total_steps
        return run.state

    monkeypatch.setattr(supervised.loop, "fit", no_training)
    assert cli.call("finetune", *arguments)["top1"] == results["top1"]


def test_no_learning_rate_is_chosen_on_too_few_labels_or_many(tmp_path, pretrained, monkeypatch):
    fields = {
        "rates_by_labels": True,
        "choose_below": 30,
        "freeze_below": 20,
        "optimizer": {"learning_rate": 1e-3},
    }
    setup = setup_of(tmp_path, pretrained, config_lib.finetune, **fields)
    trained = []

    class Training(mock.Mock):
        def train(self, rows, seed, workdir, *, recipe, classifier, learning_rate):
            trained.append((len(rows), learning_rate, self.frozen_statistics))
            return None, 0

        def test(self, *args):
            return {}

    monkeypatch.setattr(supervised, "ClassifierTraining", lambda setup, **options: Training(**options))
    tuning = few_labels.FineTuning(setup)
    one_of_each_class = np.unique(setup.train.labels, return_index=True)[1]
    for rows, rate in ((one_of_each_class, 1e-4), (np.arange(30), 3e-3)):
        assert tuning.run(rows, 0, tmp_path)["learning_rate"] == rate
    assert trained == [(10, 1e-4, True), (30, 3e-3, False)]


def test_a_batch_has_no_more_images_than_there_are_labels():
    assert supervised.batch_for(4096, 97, 1) == 97
    assert supervised.batch_for(4096, 97, 8) == 96
    assert supervised.batch_for(4096, 3, 8) == 8
    assert supervised.batch_for(64, 1000, 8) == 64


def test_finetuning_moves_the_encoder_and_its_statistics(tmp_path, pretrained):
    setup = setup_of(tmp_path, pretrained, config_lib.finetune, batch_size=64, epochs=0.1, labels_per_class=5)
    training = supervised.ClassifierTraining(setup, frozen=False, name="test")
    label_subsets.evaluate_each(setup, training.run)
    path = checkpoint.find(str(tmp_path / "draw_0"))
    params, batch_stats = checkpoint.load_parts(path, setup.params, setup.batch_stats)
    assert np.any(params["encoder"]["stem_conv"]["kernel"] != setup.params["encoder"]["stem_conv"]["kernel"])
    assert np.any(batch_stats["encoder"]["stem_bn"]["mean"] != setup.batch_stats["encoder"]["stem_bn"]["mean"])


def test_finetuning_from_the_middle_of_the_head_trains_the_layers_up_to_there(tmp_path, pretrained):
    fields = {"batch_size": 64, "epochs": 0.1, "labels_per_class": 5, "features": "g1"}
    setup = setup_of(tmp_path, pretrained, config_lib.finetune, **fields)
    training = supervised.ClassifierTraining(setup, frozen=False, name="test")
    label_subsets.evaluate_each(setup, training.run)
    params, _ = checkpoint.load_parts(checkpoint.find(str(tmp_path / "draw_0")), setup.params, setup.batch_stats)
    before, after = setup.params["head"], params["head"]
    assert np.any(after["dense1"]["kernel"] != before["dense1"]["kernel"])
    np.testing.assert_array_equal(after["dense2"]["kernel"], before["dense2"]["kernel"])


def test_from_scratch_needs_no_pretraining_run(tmp_path):
    arguments = (
        f"--workdir={tmp_path}",
        "--config=configs/digits_finetune.py:0.1,steps=2",
        *UNTRAINED,
    )
    with pytest.raises(errors.UserError, match=r"config\.model\.stem is not set: set it, or give a pretraining run"):
        cli.call("finetune", *arguments)
    results = cli.call("finetune", *arguments, "--config.model.stem=cifar")
    assert results["step"] == 140 // 64 + 1


def test_mistakes_are_told(tmp_path, pretrained):
    def probe(*arguments, workdir=tmp_path / "probe"):
        return cli.call("linear_probe", f"--workdir={workdir}", *arguments)

    run = f"--pretrained={pretrained}"
    with pytest.raises(errors.UserError, match="--pretrained is missing"):
        probe()
    with pytest.raises(errors.UserError, match="'/nowhere' does not exist"):
        probe("--pretrained=/nowhere")
    with pytest.raises(errors.UserError, match=r"depth is 50, but the encoder in .* has 10"):
        probe(run, "--config.model.depth=50")
    with pytest.raises(errors.UserError, match="would be overwritten"):
        probe(run, workdir=pretrained)
    with pytest.raises(errors.UserError, match="must be 'h', 'z', or 'g1', 'g2'"):
        probe(run, "--config.features=y")
    with pytest.raises(errors.UserError, match=r"'g3', but the projection head has 2 layer\(s\)"):
        probe(run, "--config.features=g3")
    for number in range(3):
        write_image(tmp_path / "flat" / f"{number}.png", seed=number)
    with pytest.raises(errors.UserError, match="has no labels, which an evaluation needs"):
        probe(run, "--config.data.source=folder", f"--config.data.root={tmp_path / 'flat'}")


def test_another_data_set_can_be_evaluated(tmp_path, pretrained, image_folder):
    results = cli.call(
        "linear_probe",
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path / 'probe'}",
        "--config.data.source=folder",
        f"--config.data.root={image_folder}",
        *FEW_L2,
    )
    assert results["n"] == 12


def test_a_checkpoint_may_be_moved_to_another_name(tmp_path, pretrained):
    shutil.copytree(pretrained / "checkpoints" / "9", tmp_path / "the_good_one")
    assert setup_of(tmp_path / "w", tmp_path / "the_good_one").pretrained_step == 9


def test_a_refused_evaluation_leaves_the_config_of_what_is_there(tmp_path, pretrained):
    arguments = (f"--pretrained={pretrained}", f"--workdir={tmp_path}")
    small = ("--config.labels_per_class=5", "--config.epochs=0.1", "--config.batch_size=32")
    arguments += (f"--config={REPOSITORY}/configs/imagenet_finetune.py",)
    cli.call("finetune", *arguments, *small)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(errors.UserError, match="batch_size"):
        cli.call("finetune", *arguments, *small[:2], "--config.batch_size=16")
    assert (tmp_path / "config.json").read_text() == before


def test_images_of_which_none_can_be_read_are_refused(tmp_path, pretrained):
    for split, number in (("train", 4), ("test", 1)):
        for name in ("cat", "dog"):
            for seed in range(number):
                write_image(tmp_path / "images" / split / name / f"{seed}.png", seed=seed)
    for path in (tmp_path / "images" / "test").rglob("*.png"):
        path.write_bytes(b"torn")
    data = ("--config.data.source=folder", f"--config.data.root={tmp_path}/images")
    with pytest.raises(errors.UserError, match=r"none of the 2 images of \S*/test can be read"):
        cli.call("linear_probe", PROBE, f"--pretrained={pretrained}", f"--workdir={tmp_path}/run", *data, *FEW_L2)
