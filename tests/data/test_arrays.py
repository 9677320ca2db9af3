"""Files of NumPy arrays as data."""

import os
import zipfile

from ml_collections import ConfigDict
import numpy as np
import pytest

from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.inference.named_images import open_images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def opened(path, split="train", **fields):
    data = {"source": "folder", "root": str(path), "train_split": "train", "test_split": None, "labels": None}
    return sources.open_source(ConfigDict(data | fields), split)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


@pytest.mark.parametrize("names", ["{}_images {}_labels", "x_{} y_{}"])
def test_splits_have_images_and_labels(tmp_path, names):
    arrays = {}
    for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        images, labels = names.replace("{}", split).split()
        arrays |= {images: IMAGES[rows], labels: LABELS[rows]}
    path = saved(tmp_path, **arrays)
    train, test = opened(path), opened(path, "test")
    np.testing.assert_array_equal(train.labels, LABELS[:4])
    np.testing.assert_array_equal(test.labels, LABELS[4:])
    assert train.class_names == test.class_names == ["0", "1", "2"]
    for number in range(2):
        np.testing.assert_array_equal(test.content(number), IMAGES[4 + number])
        np.testing.assert_array_equal(test.fetch(number), IMAGES[4 + number])
    assert test.describe(1) == f"{images}[1]"  # the same wherever the file is
    shard = pipeline.HostShard(2, num_steps=1)
    (batch,) = pipeline.eval_batches(test, size=5, crop=1.0, shard=shard, bad_images=pipeline.BadImages(test, 0.0))
    np.testing.assert_array_equal(batch["image"], IMAGES[4:])


def test_images_alone_are_for_training_and_grey_ones_get_three_channels(tmp_path):
    source = opened(saved(tmp_path, images=IMAGES[..., 0]))
    assert source.class_names is None
    np.testing.assert_array_equal(source.content(2), np.repeat(IMAGES[2, ..., :1], 3, axis=-1))


def test_validation_images_are_test_images_where_there_are_no_other_ones(tmp_path):
    path = saved(tmp_path, train_images=IMAGES, val_images=IMAGES[:2, ..., :1])
    np.testing.assert_array_equal(opened(path, "test").content(1), np.repeat(IMAGES[1, ..., :1], 3, axis=-1))


def test_classes_may_be_named(tmp_path):
    path = saved(tmp_path, images=IMAGES, labels=LABELS[:, None], class_names=np.array(["cat", "dog", "emu"]))
    assert opened(path).class_names == ["cat", "dog", "emu"]
    np.testing.assert_array_equal(opened(path).labels, LABELS)


def test_names_of_many_classes_are_in_the_order_of_their_numbers(tmp_path):
    path = saved(tmp_path, images=np.repeat(IMAGES, 2, axis=0), labels=np.arange(12))
    assert opened(path).class_names == sorted(opened(path).class_names)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "no array train_images or x_train or images; it has pictures.$"),
        ({"images": IMAGES / 255}, "images is float64, but images have to be uint8, 0 to 255; floats in"),
        ({"images": IMAGES[0, 0]}, r"images has the shape \[5, 3\]"),
        ({"images": IMAGES.swapaxes(1, 3)}, r"images has the shape \[6, 3, 5, 5\]"),
        ({"images": IMAGES[:0]}, r"images has the shape \[0, 5, 5, 3\]: there are no images in it"),
        ({"images": IMAGES[0]}, r"the shape \[5, 5, 3\], a single image: \[1, 5, 5, 3\] is right"),
        (
            {"images": IMAGES, "labels": np.eye(6, dtype=int)},
            r"\[6\] is right. One-hot labels become that by labels.argmax",
        ),
        (
            {"images": IMAGES, "labels": np.array(list("abcabc"))},
            "labels has to be whole numbers from 0 on, but is <U1",
        ),
        ({"images": IMAGES, "x_test": IMAGES, "y_test": np.full(6, np.nan)}, None),
        (
            {"images": IMAGES, "labels": LABELS, "x_test": IMAGES, "y_test": np.full(6, np.nan)},
            "y_test has to be whole numbers",
        ),
        ({"images": IMAGES, "labels": LABELS + 2**33, "class_names": np.array(list("abc"))}, "goes from 8589934592 to"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels has the shape \[5\], but there are 6 images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels has to be whole numbers from 0 on, but is float64"),
        ({"images": IMAGES, "labels": LABELS - 1}, "whole numbers from 0 on, but goes from -1 to 1"),
        ({"images": IMAGES, "labels": LABELS + 9999}, "has the label 10001, more than there are images"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b"])},
            "label 2, but class_names has only 2",
        ),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b", "a"])}, "has a name twice"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    if message is None:
        assert opened(saved(tmp_path, **arrays)).class_names is None
        return
    with pytest.raises(UserError, match=message):
        opened(saved(tmp_path, **arrays))


def test_a_missing_split_names_those_that_are_there(tmp_path):
    path = saved(tmp_path, images=IMAGES)
    with pytest.raises(UserError, match=r"no array test_images or x_test or .*; it has images\.$"):
        opened(path, "test")
    with pytest.raises(UserError, match="no array extra_images or x_extra; it has images"):
        opened(path, train_split="extra")


def test_an_empty_split_is_named_and_harms_no_other_one(tmp_path):
    path = saved(
        tmp_path, train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:0], test_labels=np.zeros(0, np.int64)
    )
    assert opened(path).class_names == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"test_images has the shape \[0, 5, 5, 3\]: there are no images in it"):
        opened(path, "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train_images x_train", "arrays train_images and x_train, which mean the same"),
        ("x_train images", "arrays x_train and images, which"),
        ("train_images train_labels y_train", "arrays train_labels and y_train, which"),
        ("images labels y_train", "arrays y_train and labels, which"),
    ],
)
def test_a_split_under_two_names_is_refused(tmp_path, names, message):
    arrays = {name: IMAGES if "images" in name or "x_" in name else LABELS for name in names.split()}
    path = saved(tmp_path, **arrays, test_images=IMAGES[:2])
    with pytest.raises(UserError, match=message):
        opened(path)
    assert opened(path, "test").num_examples == 2
    with pytest.raises(UserError, match=message):
        open_images(str(path))


@pytest.mark.parametrize("named", [False, True])
def test_a_class_without_a_training_image_is_refused(tmp_path, named, caplog):
    def check(train, test):
        names = {"class_names": np.array(["cat", "dog", "emu", "fox"])} if named else {}
        arrays = {"train_images": IMAGES[: len(train)], "test_images": IMAGES[: len(test)]}
        path = saved(tmp_path, **arrays, train_labels=np.array(train), test_labels=np.array(test), **names)
        sources.check_same_classes(opened(path), opened(path, "test"))

    caplog.set_level("WARNING", "simclr_jax")
    check([0, 1, 1], [1, 0])
    assert not caplog.text
    for test, given, classes in (
        ([2, 3], "emu, fox" if named else "2, 3", "es"),
        ([1, 2], "emu" if named else "2", ""),
    ):
        with pytest.raises(
            UserError, match=rf"test_images has images of the class{classes} {given}, of which .* has none\.$"
        ):
            check([0, 1, 1], test)
    check([0, 1, 2], [2, 0])
    assert f"test_images has no image of the class {'dog' if named else 1}." in caplog.text


def no_member(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no array")


def damaged(path):
    np.savez_compressed(path, images=np.zeros((99, 8, 8, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "no file of NumPy arrays"),
        (lambda path: path.write_bytes(b"PK\3\4 torn"), "no file of NumPy arrays"),
        (lambda path: np.save(path.open("wb"), IMAGES), "it is not what numpy.savez writes"),
        (no_member, "has no array train_images or .*; it has readme.txt"),
        (damaged, "cannot be read as a file of NumPy arrays"),
        (lambda path: np.savez(path, images=np.array([{}, None])), "Python objects; save texts with dtype=str"),
        (os.mkfifo, "is no regular file"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, make, message):
    path = tmp_path / "images.npz"
    make(path)
    with pytest.raises(UserError, match=rf"images.npz'.* {message}"):
        opened(path)


def test_names_of_classes_may_be_bytes(tmp_path):
    path = saved(tmp_path, images=IMAGES, labels=LABELS, class_names=np.array([b"cat", b"dog", b"emu"]))
    assert opened(path).class_names == ["cat", "dog", "emu"]


def test_labels_under_another_name_are_told(tmp_path, caplog):
    caplog.set_level("WARNING", "simclr_jax")
    assert opened(saved(tmp_path, train_images=IMAGES, labels=LABELS)).class_names is None
    assert "has no array train_labels; labels is not used" in caplog.text


def test_a_table_beside_arrays_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.labels='table.csv': the labels of .* are an array in it"):
        opened(saved(tmp_path, images=IMAGES), labels="table.csv")


def test_other_images_of_a_large_file_are_other_data(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.fingerprint.__globals__, "SMALL_EXAMPLES", 4)
    first = sources.fingerprint(opened(saved(tmp_path, images=IMAGES)))
    (tmp_path / "moved").mkdir()
    moved = sources.fingerprint(opened(saved(tmp_path / "moved", images=IMAGES)))
    other = sources.fingerprint(opened(saved(tmp_path, images=255 - IMAGES)))
    assert first["contents"] == moved["contents"] != other["contents"]
    assert first["names"] == moved["names"] == other["names"]


def test_with_all_splits_labels_that_one_lacks_are_told(tmp_path, caplog):
    caplog.set_level("WARNING", "simclr_jax")
    for labelled in ("train", "test"):
        path = saved(tmp_path, train_images=IMAGES, test_images=IMAGES, **{f"{labelled}_labels": LABELS})
        source = open_images(str(path))
        assert (source.num_examples, source.class_names) == (12, None)
        assert "images has no labels, so no labels are used. To use some: --images=" in caplog.text
        caplog.clear()


def test_commands_take_one_split_or_all(tmp_path):
    path = saved(tmp_path, x_train=IMAGES[:4], y_train=LABELS[:4], x_test=IMAGES[4:], y_test=LABELS[4:])
    assert open_images(str(path)).num_examples == 6
    assert open_images(f"{path}:test").num_examples == 2
    np.testing.assert_array_equal(open_images(f"{path}:test").content(0), IMAGES[4])
    for name, message in ((f"{path}:val", "no array val_images or x_val; it has x_test"), ("x.npz", "does not exist")):
        with pytest.raises(UserError, match=message):
            open_images(name)
    with pytest.raises(UserError, match="no array test_images or x_test; it has pictures"):
        open_images(str(saved(tmp_path, pictures=IMAGES)))
