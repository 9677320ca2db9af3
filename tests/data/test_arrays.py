"""Files of NumPy arrays as data."""

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
        ({"images": IMAGES / 255}, "images is float64, but images have to be uint8"),
        ({"images": IMAGES[0, 0]}, r"images has the shape \[5, 3\]"),
        ({"images": IMAGES.swapaxes(1, 3)}, r"images has the shape \[6, 3, 5, 5\]"),
        ({"images": IMAGES[:0]}, r"images has the shape \[0, 5, 5, 3\]"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels has the shape \[5\], but there are 6 images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels has to be whole numbers from 0 on; it is float64"),
        ({"images": IMAGES, "labels": LABELS - 1}, "whole numbers from 0 on; it is int64, the least -1"),
        ({"images": IMAGES, "labels": LABELS + 9999}, "has the label 10001, more than there are images"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b"])},
            "label 2, but class_names has only 2",
        ),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b", "a"])}, "has a name twice"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        opened(saved(tmp_path, **arrays))


def test_a_missing_split_names_those_that_are_there(tmp_path):
    path = saved(tmp_path, images=IMAGES)
    with pytest.raises(UserError, match=r"no array test_images or x_test or .*; it has images\.$"):
        opened(path, "test")
    with pytest.raises(UserError, match="no array extra_images or x_extra; it has images"):
        opened(path, train_split="extra")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", b"no arrays"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"images.npz' cannot be read as a file of NumPy arrays"):
        opened(path)


def test_objects_are_refused(tmp_path):
    path = saved(tmp_path, images=np.array([print, None], object))
    with pytest.raises(UserError, match="cannot be read as a file of NumPy arrays"):
        opened(path)


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
