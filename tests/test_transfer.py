"""Transfer: measures against plain definitions, what is chosen on which images, several classes for an image."""

import json

from etils import epath
from helpers import write_image
import numpy as np
import pytest

from configs import transfer as transfer_config
import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax import errors
from simclr_jax import transfer
from simclr_jax.config import CONFIGS
from simclr_jax.config import saved as saved_config
from simclr_jax.data import sources
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation import metrics
from simclr_jax.runtime import cli
from simclr_jax.runtime.tensorflow import tfds

CONFIG = f"--config={CONFIGS / 'transfer.py'}"
FEW_L2 = ("--config.lbfgs.l2_values=4", "--config.lbfgs.max_iterations=50", "--config.batch_size=32")


@pytest.fixture
def pretrained(digits_run):
    return digits_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 training, 9 validation, 15 test images of three classes, which are colours: red, green, blue."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 4), ("val", 3), ("test", 5)):
        for number, name in enumerate(("blue", "green", "red")):
            for each in range(count):
                path = write_image(root / split / name / f"{each}.png", seed=len(split) * 100 + each, size=(12, 12))
                tint(path, 2 - number)
    return root


def tint(path, channel):
    from PIL import Image

    pixels = np.asarray(Image.open(path)) // 4
    pixels[..., channel] += 180
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """A TFDS data set `tags` on disk, made as `voc` is: which of three colours an image has, and which are hard to see."""
    directory = tmp_path_factory.mktemp("tfds")
    names = tfds.features.ClassLabel(names=["red", "green", "blue"])

    class Tags(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "labels": tfds.features.Sequence(names),
                "labels_no_difficult": tfds.features.Sequence(names),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {name: self._generate_examples(count, name) for name, count in SPLITS.items()}

        def _generate_examples(self, count, split):
            rng = np.random.default_rng(len(split))
            for number in range(count):
                seen = [colour for colour in range(3) if number >> colour & 1]
                image = rng.integers(0, 60, (12, 12, 3), dtype=np.uint8)
                for colour in seen:
                    image[4 * colour : 4 * colour + 4, :, colour] += 180
                easy = seen[1:] if number % 7 == 3 else seen
                yield number, {"image": image, "labels": seen, "labels_no_difficult": easy}

    Tags(data_dir=directory).download_and_prepare()
    return directory


SPLITS = {"train": 32, "validation": 16, "test": 24}


def of_tags(tags, **fields):
    data = config_lib.transfer().data
    data.update({"source": "tfds", "name": "tags", "root": str(tags), "train_split": "train"} | fields)
    return data


def test_eleven_points_by_their_definition():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])[:, None]
    labels = np.array([1, 0, 1, -1, 0, 1])[:, None]
    # Ranks of what counts: hit, miss, hit, miss, hit; precisions 1, 2/3, 3/5 at recalls 1/3, 2/3, 1.
    expected = (4 * 1 + 3 * (2 / 3) + 4 * (3 / 5)) / 11
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(expected)
    # A class that no example is of is left out; a perfect one has 1.
    both = np.stack([labels[:, 0], np.zeros(6, int), [1, 1, 1, 0, 0, 0]], axis=1)
    assert metrics.mean_average_precision(np.repeat(scores, 3, 1), both) == pytest.approx((expected + 1) / 2)


def test_classes_are_regressed_one_by_one_and_what_does_not_count_is_left_out():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    labels = (features[:, :3] > 0).astype(np.int32)
    spoilt = rng.random(200) < 0.3
    labels[spoilt, 1] = -1
    lbfgs = config_lib.transfer().lbfgs
    lbfgs.l2_values = 5
    asked = []

    def measure(scores, found):
        asked.append(len(found))
        return metrics.mean_average_precision(scores, found)

    classifier, l2 = logistic_regression.fit(
        features, labels, lbfgs, seed=0, held_out=np.arange(150, 200), metric=measure
    )
    assert asked == [50] * 5
    assert l2 in np.geomspace(1e-6, 1e5, 5)
    scores = logistic_regression.scores(classifier, features, 3)
    assert metrics.mean_average_precision(scores, labels) > 0.99
    # As if those examples were not there: the second class by itself.
    alone = logistic_regression.OneVsRest(1, C=1 / l2, max_iter=10000).fit(features[~spoilt], labels[~spoilt, 1:2])
    assert np.mean((alone.decision_function(features)[:, 0] > 0) == (scores[:, 1] > 0)) > 0.97
    # A class that is the same everywhere is not a question.
    labels[:, 2] = 0
    lbfgs.l2_values = 1
    classifier, _ = logistic_regression.fit(features, labels, lbfgs, seed=0)
    assert np.all(logistic_regression.scores(classifier, features, 3)[:, 2] == 0)


def test_joined_sources_have_the_examples_of_both(folder):
    data = config_lib.transfer().data
    data.update(source="folder", root=str(folder), train_split="train")
    train = sources.open_source(data, "train")
    data.train_split = "val"
    val = sources.open_source(data, "train")
    joined = sources.join(train, val)
    assert joined.num_examples == 12 + 9
    assert (joined.describe(11), joined.describe(12)) == (train.describe(11), val.describe(0))
    np.testing.assert_array_equal(joined.labels, [*train.labels, *val.labels])
    assert joined.fetch(np.int64(14)).numpy() == val.fetch(np.int64(2)).numpy()
    part = joined.subset(np.array([3, 20]))
    assert part.fetch(np.int64(1)).numpy() == val.fetch(np.int64(8)).numpy()


def test_several_classes_for_an_image(tags):
    source = sources.open_source(of_tags(tags), "train")
    assert source.multi_label
    assert source.labels.shape == (32, 3)
    expected = np.arange(32)[:, None] >> np.arange(3) & 1
    for row in range(3, 32, 7):
        expected[row, np.flatnonzero(expected[row])[:1]] = -1
    assert set(map(tuple, source.labels)) >= {(0, 0, 0), (1, 1, 1), (-1, 1, 0)}
    assert sorted(map(tuple, source.labels)) == sorted(map(tuple, expected))
    with pytest.raises(
        errors.UserError, match=r"images of several classes, and is too large for config\.data\.memory_mib=0"
    ):
        sources.open_source(of_tags(tags, memory_mib=0), "train")


@pytest.mark.slow
def test_a_probe_chooses_on_validation_images_and_fits_all(folder, tmp_path, pretrained, monkeypatch):
    fitted = []
    fit = logistic_regression._fit
    monkeypatch.setattr(logistic_regression, "_fit", lambda *args: fitted.append(len(args[2])) or fit(*args))
    results = cli.call(
        "transfer",
        f"{CONFIG}:folder,root={folder},val=val",
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path}",
        *FEW_L2,
    )
    assert fitted == [12] * 4 + [21]
    assert (results["train_images"], results["val_images"], results["n"]) == (12, 9, 15)
    assert results["top1"] > 0.8, "colours are easy"
    assert results["val"] > 0.8
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "predictions.npz").exists()

    # Without a validation split, some of the training images are held out.
    fitted.clear()
    options = (f"--config.data.root={folder}", "--config.holdout=0.25", *FEW_L2)
    held = cli.call(
        "transfer", f"{CONFIG}:folder", f"--pretrained={pretrained}", f"--workdir={tmp_path / 'b'}", *options
    )
    assert (held["train_images"], held["val_images"]) == (9, 3)
    assert fitted == [9] * 4 + [12]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["lbfgs", pytest.param("finetune", marks=pytest.mark.heavy)])
def test_transfer_to_several_classes(protocol, tags, tmp_path, pretrained):
    results = cli.call(
        "transfer",
        f"{CONFIG}:voc2007,protocol={protocol},root={tags}",
        "--config.data.name=tags",
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path}",
        *FEW_L2,
        *("--config.steps=30", "--config.grid.learning_rates=0.05,", "--config.grid.weight_decays=0,"),
    )
    assert (results["metric"], results["n"], results["val_images"]) == ("map11", 24, 16)
    assert results["map11"] > 0.8
    if protocol == "finetune":
        encoder = simclr_jax.load(tmp_path)
        assert (encoder.saved.several_classes, encoder.class_names) == (True, ["red", "green", "blue"])


@pytest.mark.heavy
def test_finetuning_chooses_from_the_grid_and_continues(folder, tmp_path, pretrained, monkeypatch):
    arguments = (
        f"{CONFIG}:folder,root={folder},val=val,protocol=finetune",
        f"--pretrained={pretrained}",
        f"--workdir={tmp_path}",
        *("--config.batch_size=8", "--config.steps=6", "--config.metric=mean_per_class"),
        *("--config.grid.learning_rates=0.05,1e-8", "--config.grid.weight_decays=0,0.001"),
    )
    trained = []
    train = transfer.supervised.ClassifierTraining.run

    def counted(self, rows, seed, workdir):
        config = self.setup.config
        decay = config.optimizer.weight_decay * config.optimizer.learning_rate
        trained.append((config.optimizer.learning_rate, pytest.approx(decay), len(rows), self.setup.test.num_examples))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(self, rows, seed, workdir)

    monkeypatch.setattr(transfer.supervised.ClassifierTraining, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        cli.call("transfer", *arguments)
    record = tmp_path / "grid" / "learning_rate=0.05,weight_decay=0" / "data.json"
    content = record.read_text()
    record.write_text(json.dumps(json.loads(content) | {"encoder": {"step": 9, "values": "of another encoder"}}))
    with pytest.raises(
        errors.UserError, match="weight_decay=0 is a run on other data: encoder: it has other weights. Take"
    ):
        cli.call("transfer", *arguments)
    record.write_text(content)
    results = cli.call("transfer", *arguments)
    assert trained[:3] == [(0.05, 0, 12, 9), (0.05, 0.001, 12, 9), (1e-8, 0, 12, 9)]
    assert trained[3:5] == [(1e-8, 0, 12, 9), (1e-8, 0.001, 12, 9)]
    assert trained[5] == (results["learning_rate"], results["weight_decay"], 21, 15)
    assert results["learning_rate"] == 0.05, "the other one changes nothing"
    assert results["step"] == 6
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {
        f"learning_rate={rate},weight_decay={decay}" for rate in ("0.05", "1e-08") for decay in ("0", "0.001")
    }
    assert not list((tmp_path / "grid").glob("*/checkpoints"))
    assert (tmp_path / "chosen" / "checkpoints").exists()
    with pytest.raises(errors.UserError, match=r"(?s)holds another run.*config\.steps is 7"):
        cli.call("transfer", *arguments, "--config.steps=7")


@pytest.mark.slow
def test_mistakes_are_told(folder, tags, tmp_path, pretrained):
    def call(config, *arguments):
        return cli.call(
            "transfer", f"{CONFIG}:{config}", f"--pretrained={pretrained}", f"--workdir={tmp_path}", *FEW_L2, *arguments
        )

    with pytest.raises(errors.UserError, match=r"no data set 'dtt' \(did you mean 'dtd'\?\)"):
        transfer_config.get_config("dtt")
    with pytest.raises(errors.UserError, match=r"config\.data\.val_split is 'dev', but .* has no such folder"):
        call(f"folder,root={folder},val=dev")
    with pytest.raises(errors.UserError, match="config.metric is 'map11', but the images of .* have one class each"):
        call(f"folder,root={folder},metric=map11")
    with pytest.raises(errors.UserError, match="have several classes each: take 'map11'"):
        call(f"dtd,root={tags}", "--config.data.name=tags")
    with pytest.raises(errors.UserError, match="too small to hold out"):
        call(f"folder,root={folder}", "--config.holdout=0.1")
    with pytest.raises(errors.UserError, match=r"config\.protocol is 'sgd'"):
        call(f"folder,root={folder},protocol=sgd")
    with pytest.raises(errors.UserError, match="several labels each, which only simclr_jax.transfer can use"):
        cli.call(
            "linear_probe",
            f"--pretrained={pretrained}",
            f"--workdir={tmp_path}",
            *("--config.data.source=tfds", "--config.data.name=tags", f"--config.data.root={tags}"),
        )


def test_the_papers_data_sets_are_known_to_tfds():
    for name, (tfds_name, *_, metric) in transfer_config.DATASETS.items():
        config = transfer_config.get_config(name)
        assert (config.data.name, config.metric) == (tfds_name, metric)
        if tfds_name:
            builder = tfds.builder_cls(tfds_name.partition("/")[0])
            assert builder.name == tfds_name.partition("/")[0]
    assert len(transfer_config.DATASETS) == 12
    assert epath.Path(CONFIGS / "sweeps" / "transfer.py").exists()


@pytest.mark.slow
def test_arrays_may_name_their_validation_images_or_hold_some_out(tmp_path, pretrained):
    rng, arrays = np.random.default_rng(0), {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(40) % 2
    np.savez(tmp_path / "images.npz", **arrays)
    for name, fields in (("named", ",val=val"), ("held_out", "")):
        config = f"{CONFIG}:folder,root={tmp_path}/images.npz{fields}"
        results = cli.call("transfer", config, f"--pretrained={pretrained}", f"--workdir={tmp_path / name}", *FEW_L2)
        assert results["n"] == 40


def test_on_the_images_of_pretraining_validation_images_are_held_out():
    config, pretraining = config_lib.transfer(), config_lib.pretrain()
    pretraining.data.update(source="folder", root="photos")
    saved_config.inherit(config, pretraining)
    assert (config.data.root, config.data.val_split) == ("photos", None)
