"""Sources and the pipeline: folders, digits, TFDS on disk, label subsets, exact resume, unreadable images."""

import dataclasses
import json
import logging
import os
import subprocess
import sys

from etils import epath
from helpers import REPOSITORY
from helpers import write_image
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.augment import image_files
from simclr_jax.augment import tf_crops
from simclr_jax.data import bad_images as bad_images_lib
from simclr_jax.data import order
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data import subsets
from simclr_jax.data.sources import tfds as tfds_source
from simclr_jax.data.sources import tfds_builder
from simclr_jax.data.sources.files import of_files
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.tensorflow import tfds

SIZE = 12


def data_config(**fields):
    data = config_lib.pretrain().data
    data.update(image_size=SIZE, eval_crop=1.0, **fields)
    return data


def batches(source, *, start_step=0, count=4, batch_size=8, seed=0, views=2, host=0, hosts=1, max_bad=0.01):
    bad_images = pipeline.BadImages(source, max_bad)
    shard = order.HostShard(batch_size, start_step, None, host, hosts)
    stream = pipeline.train_batches(
        source,
        config_lib.pretrain().augment,
        num_views=views,
        size=SIZE,
        shard=shard,
        seed=seed,
        bad_images=bad_images,
    )
    return [next(stream) for _ in range(count)], bad_images


def everything(source, batch_size=8, max_bad=0.01, host=0, hosts=1):
    steps = -(-source.num_examples // batch_size)
    bad_images = pipeline.BadImages(source, max_bad)
    shard = order.HostShard(batch_size, 0, steps, host, hosts)
    result = list(pipeline.eval_batches(source, size=SIZE, crop=1.0, shard=shard, bad_images=bad_images))
    return {key: np.concatenate([batch[key] for batch in result]) for key in result[0]}, bad_images


def assert_same(actual, expected):
    for one, two in zip(actual, expected, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data set `shapes` on disk: 50 training, 17 validation examples, 3 classes, several files."""
    directory = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=["disc", "ring", "star"]),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples(50), "validation": self._generate_examples(17)}

        def _generate_examples(self, count):
            for number in range(count):
                image = np.full((16, 14, 3), number * 5, np.uint8) + rng.integers(0, 4, (16, 14, 3), dtype=np.uint8)
                yield number, {"photo": image, "label": number % 3}

    config = tfds.download.DownloadConfig(num_shards=3)
    Shapes(data_dir=directory).download_and_prepare(download_config=config)
    return str(directory)


@pytest.fixture(params=["digits", "folder", "tfds in memory", "tfds stream"])
def any_source(request, image_folder, tfds_dir):
    """Every kind of source."""
    if request.param == "digits":
        return sources.open_source(data_config(source="digits"), "train")
    if request.param == "folder":
        return sources.open_source(data_config(source="folder", root=str(image_folder)), "train")
    memory = 100 if request.param == "tfds in memory" else 0
    fields = {"source": "tfds", "name": "shapes", "root": tfds_dir, "memory_mib": memory, "shuffle_buffer": 20}
    source = sources.open_source(data_config(**fields), "train")
    assert isinstance(source, sources.RandomAccess if memory else tfds_source.Stream)
    return source


# --- What every source does ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batches_are_uint8_views_with_labels(any_source):
    (batch, *_), bad_images = batches(any_source)
    assert batch["views"].shape == (8, 2, SIZE, SIZE, 3)
    assert batch["views"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert not np.array_equal(batch["views"][:, 0], batch["views"][:, 1])
    assert bad_images.count == 0


@pytest.mark.slow
def test_a_run_resumes_at_any_step_also_across_epochs(any_source):
    whole, _ = batches(any_source, count=20)
    for start in (1, 7, 13):  # 50 examples are 6.25 batches of 8
        resumed, _ = batches(any_source, start_step=start, count=20 - start)
        assert_same(whole[start:], resumed)


@pytest.mark.slow
def test_parallelism_changes_nothing(any_source, monkeypatch):
    expected, _ = batches(any_source, count=5)
    monkeypatch.setattr(tf.data, "AUTOTUNE", 1)
    assert_same(expected, batches(any_source, count=5)[0])


@pytest.mark.slow
def test_hosts_together_read_the_same_batches(any_source):
    if isinstance(any_source, tfds_source.Stream):
        pytest.skip("the order of a stream depends on the number of hosts")
    whole, _ = batches(any_source, count=9)
    halves = [batches(any_source, count=9, host=host, hosts=2)[0] for host in (0, 1)]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
    assert_same(whole, joined)


def test_opening_an_image_is_traced_once(image_folder, monkeypatch):
    traced = []
    random_crops = tf_crops.random_crops
    monkeypatch.setattr(tf_crops, "random_crops", lambda *args: traced.append(1) or random_crops(*args))
    batches(sources.open_source(data_config(source="folder", root=str(image_folder)), "train"), count=1)
    assert traced == [1], "once, not for each image of a group: that takes seconds"


@pytest.mark.slow
def test_an_epoch_has_every_example_once_in_a_new_order(any_source):
    n = any_source.num_examples
    read, _ = batches(any_source, batch_size=1, count=2 * n if n < 100 else n, views=1)
    # A stream numbers the records in the order in which it reads them; what is read shows in the image.
    first = sorted(batch["views"].tobytes() for batch in read[:n])
    assert sorted(int(batch["index"][0]) for batch in read[:n]) == list(range(n))
    if n < 100:
        labels = [[int(batch["label"][0]) for batch in read[i * n : (i + 1) * n]] for i in (0, 1)]
        assert sorted(labels[0]) == sorted(labels[1])
        assert labels[0] != labels[1]
        assert first != sorted(batch["views"].tobytes() for batch in read[n:])


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_that_stream_read_disjoint_pieces_and_resume(tfds_dir, hosts):
    fields = {"source": "tfds", "name": "shapes", "root": tfds_dir, "memory_mib": 0, "shuffle_buffer": 20}
    source = sources.open_source(data_config(**fields), "train")
    opened = []
    for host in range(hosts):
        start, stop = order.HostShard(hosts, process_index=host, process_count=hosts).piece(50)
        options = {"batch_size": hosts, "host": host, "hosts": hosts, "views": 1}
        read, _ = batches(source, count=2 * (stop - start), **options)
        indices = [int(batch["index"][0]) for batch in read]
        assert sorted(indices[: stop - start]) == sorted(indices[stop - start :]) == list(range(start, stop))
        assert_same(read[21:], batches(source, start_step=21, count=len(read) - 21, **options)[0])
        first_epoch = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).flat_map(
            lambda epoch, start=start, stop=stop: source._epoch(epoch, 0, start, stop)
        )
        opened += [record["image"] for record in first_epoch.as_numpy_iterator()]
    assert len(opened) == len(set(opened)) == 50


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_together_evaluate_every_example_once(any_source, hosts):
    whole, _ = everything(any_source, 12)
    parts = [everything(any_source, 12, host=host, hosts=hosts)[0] for host in range(hosts)]
    assert len({len(part["index"]) for part in parts}) == 1  # the same number of steps
    joined = {key: np.concatenate([part[key][part["mask"]] for part in parts]) for key in whole}
    ranked = np.argsort(joined["index"])
    for key in whole:
        np.testing.assert_array_equal(joined[key][ranked], whole[key][whole["mask"]], err_msg=key)


@pytest.mark.slow
def test_seeds_differ(any_source):
    first, _ = batches(any_source, count=1)
    second, _ = batches(any_source, count=1, seed=1)
    assert not np.array_equal(first[0]["views"], second[0]["views"])


def test_evaluation_reads_every_example_once_in_order(any_source):
    read, _ = everything(any_source)
    n = any_source.num_examples
    assert read["mask"].sum() == n
    np.testing.assert_array_equal(read["index"][read["mask"]], np.arange(n))
    np.testing.assert_array_equal(read["label"][read["mask"]], any_source.labels)
    assert len(read["mask"]) % 8 == 0


@pytest.mark.slow
def test_padding_does_not_end_the_fast_path(any_source, monkeypatch):
    def careful(record, stages):
        raise AssertionError("the careful path")

    monkeypatch.setattr(pipeline, "open_first_readable", careful)
    for source in (any_source, any_source.subset(np.array([4, 2, 9]))):
        read, bad_images = everything(source, 32)
        n = source.num_examples
        assert len(read["mask"]) % 32 == 0
        np.testing.assert_array_equal(read["mask"], np.arange(len(read["mask"])) < n)
        np.testing.assert_array_equal(read["index"], np.where(read["mask"], np.arange(len(read["mask"])), -1))
        assert np.all(read["label"][n:] == -1)
        assert bad_images.count == 0


def test_padding_has_no_label_of_several(image_folder):
    source = sources.open_source(data_config(source="folder", root=str(image_folder)), "test")
    source = dataclasses.replace(source, all_labels=np.eye(3, dtype=np.int32)[source.labels])
    read, _ = everything(source, 8)
    assert read["label"].shape == (16, 3)
    np.testing.assert_array_equal(read["label"][:12], source.labels)
    assert np.all(read["label"][12:] == -1)


@pytest.mark.slow
def test_an_evaluation_with_padding_prints_nothing():
    program = """
from simclr_jax.data import order, pipeline
from simclr_jax.data.sources import digits

source = digits.open_digits("test")
shard = order.HostShard(256, num_steps=2)
batches = pipeline.eval_batches(source, size=8, crop=1.0, shard=shard, bad_images=pipeline.BadImages(source, 0.0))
print(sum(batch["mask"].sum() for batch in batches))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "360\n", ran.stderr
    assert not ran.stderr, "TensorFlow writes here"


@pytest.mark.slow
def test_subsets_are_the_chosen_examples(any_source):
    chosen = np.array([1, 5, 17])
    subset = any_source.subset(chosen)
    assert subset.num_examples == 3
    np.testing.assert_array_equal(subset.labels, any_source.labels[chosen])
    whole, part = everything(any_source)[0], everything(subset)[0]
    np.testing.assert_array_equal(part["image"][:3], whole["image"][chosen])
    twice = subset.subset(np.array([2]))
    assert twice.describe(0) == subset.describe(2)
    np.testing.assert_array_equal(everything(twice)[0]["image"][0], whole["image"][17])


# --- Single sources ------------------------------------------------------------------------------------------------


def test_digits_have_a_fixed_split_of_all_classes():
    train = sources.open_source(data_config(source="digits"), "train")
    test = sources.open_source(data_config(source="digits"), "test")
    assert (train.num_examples, test.num_examples) == (1437, 360)
    assert set(train.ids).isdisjoint(test.ids)
    assert min(np.bincount(test.labels)) >= 25


def test_folder_labels_are_the_class_folders(image_folder):
    source = sources.open_source(data_config(source="folder", root=str(image_folder)), "train")
    assert list(source.class_names) == ["cat", "dog", "owl"]
    for index in range(source.num_examples):
        assert f"/{source.class_names[source.labels[index]]}/" in source.describe(index)


def test_the_test_split_is_chosen_or_its_absence_explained(image_folder):
    (image_folder / "test").rename(image_folder / "val")
    source = sources.open_source(data_config(source="folder", root=str(image_folder)), "test")
    assert source.num_examples == 12
    with pytest.raises(UserError, match=r"no folder evaluation with test images; it has train, val"):
        sources.open_source(data_config(source="folder", root=str(image_folder), test_split="evaluation"), "test")


def test_a_flat_or_nested_folder_has_images_but_no_labels(tmp_path):
    write_image(tmp_path / "a.JPG")
    write_image(tmp_path / "2024" / "summer" / "b.png")
    (tmp_path / "notes.txt").write_text("not an image")
    source = sources.open_source(data_config(source="folder", root=str(tmp_path)), "train")
    assert source.num_examples == 2
    assert source.class_names is None
    (batch, *_), _ = batches(source)
    assert np.all(batch["label"] == -1)
    with pytest.raises(UserError, match="has no labels"):
        _ = source.labels


def test_empty_and_missing_folders_are_refused(tmp_path, image_folder):
    def opened(root, split="train"):
        return sources.open_source(data_config(source="folder", root=str(root)), split)

    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.md").write_text("")
    with pytest.raises(UserError, match="no images in .*1 file is left out \\(1 .md\\)"):
        opened(tmp_path / "empty")
    (image_folder / "train" / "emu").mkdir()
    with pytest.raises(UserError, match="class folder emu .* no images"):
        opened(image_folder)


def test_a_class_that_is_missing_from_a_split_is_named(image_folder):
    for file in (image_folder / "test" / "owl").iterdir():
        file.unlink()
    (image_folder / "test" / "owl").rmdir()
    data = data_config(source="folder", root=str(image_folder))
    train, test = (sources.open_source(data, split) for split in ("train", "test"))
    with pytest.raises(UserError, match="lacks the class owl"):
        sources.check_same_classes(train, test)
    with pytest.raises(UserError, match="has the class owl, unknown"):
        sources.check_same_classes(test, train)


def test_names_that_look_the_same_are_shown_by_their_characters():
    train, test = (
        of_files(["1", "2"], split, [name, "tea"]) for split, name in (("a", "caf\u00e9"), ("b", "cafe\u0301"))
    )
    with pytest.raises(
        UserError, match=r"'caf\\xe9' and 'cafe\\u0301' \(Unicode normalisation\): rename one"
    ) as refused:
        sources.check_same_classes(train, test)
    assert "a has the class caf" in str(refused.value)


def test_a_small_slice_of_a_data_set_may_lack_a_class(caplog):
    source = of_files([f"{number}.png" for number in range(6)], labels=list("abcabc"))
    train, test = source.subset(np.array([0, 1, 3])), source.subset(np.array([1, 2]))
    sources.check_same_classes(train, test)
    assert "images of the class c, of which" in caplog.text
    assert "has no image of the class a." in caplog.text
    with pytest.raises(UserError, match="images of the class c, of which"):
        sources.check_same_classes(train, source.subset(np.array([2, 5])))


def test_tfds_split_expressions_and_feature_names(tfds_dir):
    data = data_config(source="tfds", name="shapes", root=tfds_dir, train_split="train[10:20]+validation[:5]")
    source = sources.open_source(data, "train")
    assert source.num_examples == 15
    assert list(source.class_names) == ["disc", "ring", "star"]
    assert sources.open_source(data, "test").num_examples == 17
    assert source.describe(0).startswith("shapes-train")


def test_a_streamed_sub_split_has_just_its_records(tfds_dir):
    fields = {"source": "tfds", "name": "shapes", "root": tfds_dir, "memory_mib": 0, "train_split": "train[10:33]"}
    source = sources.open_source(data_config(**fields), "train")
    expected = everything(source)[0]
    read, _ = batches(source, batch_size=23, count=1)
    assert sorted(read[0]["label"]) == sorted(expected["label"][expected["mask"]])


def test_tfds_mistakes_are_explained(tfds_dir, monkeypatch):
    def opened(**fields):
        return sources.open_source(data_config(source="tfds", root=tfds_dir, **fields), "train")

    with pytest.raises(UserError, match=r"config\.data\.name is not set"):
        opened()
    with pytest.raises(UserError, match="does not know the data set 'shapez'"):
        opened(name="shapez")
    with pytest.raises(UserError, match="no split 'trian'.*train"):
        opened(name="shapes", train_split="trian")
    # Data that has to be fetched by hand (ImageNet) fails at once, with TFDS's own instructions.
    with pytest.raises(
        UserError, match=r"(?s)imagenet2012_subset/1pct is not prepared .*ILSVRC2012_img_train\.tar.*tfds build"
    ):
        opened(name="imagenet2012_subset/1pct")

    def no_network(self, **kwargs):
        raise ConnectionError("Failed to resolve host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    monkeypatch.setattr(tfds_builder, "_connection_problem", lambda url: None)
    with pytest.raises(
        UserError, match=r"cifar10 is not prepared in .* could not be downloaded: Failed to resolve host"
    ):
        opened(name="cifar10")


# --- Labels --------------------------------------------------------------------------------------------------------


def test_label_subsets_are_balanced_seeded_and_nested_in_nothing_else(caplog):
    labels = np.repeat(np.arange(10), [100, 120, 90, 110, 100, 100, 80, 100, 100, 100])
    names = list("abcdefghij")
    chosen = subsets.choose_labelled(labels, names, fraction=0.1)
    assert np.all(np.bincount(labels[chosen]) == 10)
    np.testing.assert_array_equal(chosen, subsets.choose_labelled(labels, names, fraction=0.1))
    assert not np.array_equal(chosen, subsets.choose_labelled(labels, names, fraction=0.1, seed=1))
    assert not caplog.records
    assert len(subsets.choose_labelled(labels, names, fraction=0.001)) == 10, "at least one of each class"
    assert "label_fraction=0.001 of 1000 labels is less than half a label of each of the 10 classes" in caplog.text
    assert np.all(np.bincount(labels[subsets.choose_labelled(labels, names, per_class=13)]) == 13)
    assert len(subsets.choose_labelled(labels, names)) == 1000
    with pytest.raises(UserError, match="labels_per_class=85, but the class 'g' has only 80"):
        subsets.choose_labelled(labels, names, per_class=85)
    with pytest.raises(UserError, match="class 'k' has no training examples"):
        subsets.choose_labelled(labels, [*names, "k"], fraction=0.1)


def test_the_chosen_ids_are_written(any_source, tmp_path):
    file = epath.Path(tmp_path / "labels.json")
    rows = subsets.labelled_rows(any_source, fraction=1.0, per_class=1, seed=2, ids_file=file)
    subset = any_source.subset(rows)
    record = json.loads(file.read_text())
    assert record["num_examples"] == subset.num_examples == len(any_source.class_names)
    assert record["seed"] == 2
    for place, example in enumerate(record["examples"]):
        assert any_source.class_names[subset.labels[place]] == example["label"]
        assert any_source.labels[example["index"]] == subset.labels[place]


# --- Unreadable images ---------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(image_folder):
    """24 training images, of which one is no image and one is cut off."""
    bad = image_folder / "train" / "dog" / "1.png"
    bad.write_bytes(b"this is no image")
    cut = image_folder / "train" / "cat" / "0.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    return image_folder, {str(bad), str(cut)}


@pytest.mark.slow
def test_unreadable_images_are_replaced_counted_and_named_once(damaged, caplog):
    root, paths = damaged
    source = sources.open_source(data_config(source="folder", root=str(root)), "train")
    with caplog.at_level(logging.WARNING, "simclr_jax"):
        logging.getLogger("simclr_jax").propagate = True
        read, bad_images = batches(source, count=12, max_bad=0.1)
    assert bad_images.count == 2
    named = [message for message in caplog.messages if message.startswith("Cannot read")]
    assert len(named) == 2
    assert {path for path in paths if any(path in message for message in named)} == paths
    bad_rows = {index for index in range(source.num_examples) if source.describe(index) in paths}
    used = np.concatenate([batch["index"] for batch in read])
    assert bad_rows.isdisjoint(used)
    assert len(used) == 96
    assert all(np.array_equal(batch["label"], source.labels[batch["index"]]) for batch in read)
    assert_same(read[5:], batches(source, start_step=5, count=7, max_bad=0.1)[0])


@pytest.mark.slow
def test_ten_unreadable_images_of_few_are_replaced(image_folder):
    """With four candidates for each position, all of them were unreadable now and then."""
    root = image_folder / "train"
    for path in sorted(root.rglob("*.*"))[:10]:
        path.write_bytes(b"this is no image")
    source = sources.open_source(data_config(source="folder", root=str(image_folder)), "train")
    read, bad_images = batches(source, count=60)
    assert bad_images.count == 10
    assert all((batch["index"] >= 0).all() for batch in read)


def test_truncated_files_are_read_where_the_config_says_so(image_folder):
    path = image_folder / "train" / "cat" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    data = data_config(source="folder", root=str(image_folder), truncated_jpeg="read")
    source = sources.open_source(data, "train")
    bad_images = pipeline.BadImages(source, 0.0)
    options = {"size": SIZE, "shard": order.HostShard(24, num_steps=1), "bad_images": bad_images}
    decoding = image_files.Decoding.of(data)
    (batch,) = pipeline.eval_batches(source, crop=1.0, decoding=decoding, **options)
    assert batch["mask"].all()
    augment = config_lib.pretrain().augment
    stream = pipeline.train_batches(source, augment, num_views=2, seed=0, decoding=decoding, **options)
    assert sorted(next(stream)["index"]) == list(range(24))
    shown = pipeline.look_up(source, np.arange(24), data)
    np.testing.assert_array_equal(shown, batch["image"])


@pytest.mark.slow
def test_a_file_that_disappears_is_an_unreadable_one(image_folder):
    source = sources.open_source(data_config(source="folder", root=str(image_folder)), "train")
    (image_folder / "train" / "owl" / "2.webp").unlink()
    _, bad_images = batches(source, count=6, max_bad=0.1)
    assert bad_images.count == 1


@pytest.mark.slow
def test_too_many_unreadable_images_end_the_run(damaged, monkeypatch):
    root, _ = damaged
    source = sources.open_source(data_config(source="folder", root=str(root)), "train")
    batches(source, count=12)  # up to ten are allowed in any case
    monkeypatch.setattr(bad_images_lib, "ALWAYS_ALLOWED", 1)
    with pytest.raises(UserError, match=r"2 of the 24 images .* more than config.data.max_bad_fraction=0.01 allows"):
        batches(source, count=12)


@pytest.mark.slow
def test_evaluation_leaves_unreadable_images_out(damaged):
    root, paths = damaged
    source = sources.open_source(data_config(source="folder", root=str(root)), "train")
    read, bad_images = everything(source, max_bad=0.1)
    assert read["mask"].sum() == 22
    assert bad_images.count == 2
    assert paths.isdisjoint(source.describe(index) for index in read["index"][read["mask"]])


@pytest.mark.slow
def test_a_bad_record_of_a_stream_is_replaced_by_its_neighbour(tfds_dir, monkeypatch):
    fields = {"source": "tfds", "name": "shapes", "root": tfds_dir, "memory_mib": 0}
    source = sources.open_source(data_config(**fields), "train")
    clean, _ = batches(source, batch_size=10, count=5)
    parse = tfds_source.Stream._parse

    def damage(self, index, record):
        example = parse(self, index, record)
        return example | {"image": tf.where(index == 6, tf.constant("no image"), example["image"])}

    monkeypatch.setattr(tfds_source.Stream, "_parse", damage)
    read, bad_images = batches(source, batch_size=10, count=5, max_bad=0.1)
    assert bad_images.count == 1
    assert read[0]["index"].tolist() == [0, 1, 2, 3, 4, 5, 7, 7, 8, 9]
    keep = np.arange(10) != 6
    np.testing.assert_array_equal(read[0]["views"][keep], clean[0]["views"][keep])
    assert_same(read[1:], clean[1:])
