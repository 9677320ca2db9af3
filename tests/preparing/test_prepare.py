"""`simclr_jax.prepare`: what is stored of each kind of images, and what training reads from it."""

import io
import json
import pathlib

from batches_of import assert_same
from batches_of import batches
from helpers import write_image
import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.augment import image_files
from simclr_jax.augment.orientation import ORIENTATION_TAG
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.preparing.convert import Unreadable
from simclr_jax.preparing.convert import stored_form
from simclr_jax.preparing.inputs import _expanded
from simclr_jax.preparing.inputs import _split_of
from simclr_jax.runtime.tensorflow import tf

SIZE = 12


def opened(kind, root, split="train", **fields):
    data = config_lib.pretrain().data
    data.update(source=kind, root=str(root), image_size=SIZE, eval_crop=1.0, **fields)
    return sources.open_source(data, split)


def contents(source):
    return [source.fetch(tf.constant(index, tf.int64)).numpy() for index in range(source.num_examples)]


# --- What is stored ------------------------------------------------------------------------------------------------


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return image.format, image.size, np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp"])
def test_a_small_image_that_training_can_read_is_not_touched(tmp_path, kind):
    content = write_image(tmp_path / f"a.{kind}", size=(30, 40)).read_bytes()
    assert stored_form(content, 512) == content
    assert stored_form(content, 30) == content
    assert stored_form(content, 0) == content


@pytest.mark.parametrize(("kind", "options"), [("jpeg", {"quality": 95}), ("png", {}), ("webp", {"lossless": True})])
def test_a_large_image_is_shrunk_to_the_shorter_side(tmp_path, kind, options):
    content = write_image(tmp_path / f"a.{kind}", size=(200, 300), **options).read_bytes()
    form, size, pixels = pixels_of(stored_form(content, 50))
    assert (form, size) == ("JPEG", (75, 50))
    expected = Image.fromarray(image_files.decode_with_pillow(content)).resize((75, 50), Image.Resampling.LANCZOS)
    assert np.abs(pixels - np.asarray(expected).astype(int)).mean() < 3


def test_a_photograph_is_turned_upright_and_large_ones_are_drafted(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6  # a quarter to the right
    for size, side, expected in (((20, 40), 512, (20, 40)), ((400, 1600), 20, (20, 80))):
        content = write_image(tmp_path / "a.jpg", size=size, exif=exif, quality=95).read_bytes()
        upright = image_files.decode_with_pillow(content)
        form, got, pixels = pixels_of(stored_form(content, side))
        assert (form, got) == ("JPEG", expected)
        near = Image.fromarray(upright).resize(expected, Image.Resampling.LANCZOS)
        assert np.abs(pixels - np.asarray(near).astype(int)).mean() < 4


def test_heic_becomes_a_jpeg(tmp_path):
    pytest.importorskip("pillow_heif")
    image_files.readable_extensions()
    content = write_image(tmp_path / "a.heic", size=(64, 80)).read_bytes()
    assert pixels_of(stored_form(content, 512))[:2] == ("JPEG", (80, 64))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 torn"])
def test_what_is_no_image_is_refused_with_the_reason(content):
    with pytest.raises(Unreadable, match="empty|not an image|[Tt]runcated"):
        stored_form(content, 512)


# --- A folder ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_records_of_small_images_train_as_their_folder(image_folder, prepare):
    output, manifest = prepare(image_folder, "--shard_images=5")
    assert list(manifest["splits"]) == ["train", "test"]
    assert len(list((output / "train").glob("*.array_record"))) == 5
    for split in ("train", "test"):
        folder, records = opened("folder", image_folder, split), opened("records", output, split)
        assert contents(records) == contents(folder)
        assert records.class_names == folder.class_names
        np.testing.assert_array_equal(records.labels, folder.labels)
        assert list(records.ids) == [str(pathlib.Path(path).relative_to(image_folder)) for path in folder.ids]
    folder, records = opened("folder", image_folder), opened("records", output)
    whole = batches(folder, count=9)
    assert_same(batches(records, count=9), whole)
    assert_same(batches(records, start_step=7, count=2), whole[7:])
    halves = [batches(records, count=3, host=host, hosts=2) for host in (0, 1)]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole[:3])


def test_a_folder_without_classes_has_no_labels(tmp_path, prepare):
    for number in range(3):
        write_image(tmp_path / "photos" / "holiday" / f"{number}.jpg", seed=number)
    output, manifest = prepare(tmp_path / "photos")
    assert manifest["splits"]["train"]["class_names"] is None
    source = opened("records", output)
    assert source.all_labels is None
    assert list(source.ids) == [f"holiday/{number}.jpg" for number in range(3)]
    assert source.ids[-1] == "holiday/2.jpg"
    assert source.ids[:2] == ["holiday/0.jpg", "holiday/1.jpg"]
    assert source.subset(np.array([2, 0])).ids == ["holiday/2.jpg", "holiday/0.jpg"]


def test_unreadable_images_are_left_out_named_and_counted(tmp_path, prepare, caplog):
    for number in range(4):
        write_image(tmp_path / "photos" / f"{number}.jpg", seed=number)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"no image")
    with caplog.at_level("WARNING", "simclr_jax"):
        output, manifest = prepare(tmp_path / "photos", "--shard_images=1")
    assert "Left out: 1.jpg: it is not an image" in caplog.text
    assert manifest["splits"]["train"]["unreadable"] == 1
    assert list(opened("records", output).ids) == ["0.jpg", "2.jpg", "3.jpg"]
    assert len(contents(opened("records", output))) == 3


def test_no_readable_image_at_all_is_refused(tmp_path, prepare):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the images of the split train can be read, such as 1.jpg"):
        prepare(tmp_path / "photos")


# --- Tars ----------------------------------------------------------------------------------------------------------


def test_tars_of_webdataset_with_class_numbers(write_tar, prepare, jpegs):
    write_tar("data-train-0.tar", [{"jpg": image, "cls": b"10"} for image in jpegs[:3]])
    write_tar("data-train-1.tar", [{"txt": b"a cat", "jpg": image, "cls": b"2\n"} for image in jpegs[3:5]])
    folder = write_tar(
        "data-val-0.tar", [{"seg.png": b"", "jpg": jpegs[5], "cls": b"0"}][:0] + [{"cls": b"0", "jpg": jpegs[5]}]
    ).parent
    output, manifest = prepare(folder)
    assert list(manifest["splits"]) == ["train", "val"]
    train, test = opened("records", output), opened("records", output, "test")
    assert contents(train) == jpegs[:5]
    assert list(train.labels) == [10, 10, 10, 2, 2]
    assert contents(test) == [jpegs[5]]
    assert train.class_names == test.class_names == [str(number) for number in range(11)]
    assert train.ids[3] == "data-train-1.tar/some/00000.jpg"


def test_tars_with_labels_in_json_and_a_compressed_one(write_tar, prepare, jpegs):
    texts = [json.dumps({"label": name, "kind": 7}).encode() for name in ("ring", "disc")]
    path = write_tar(
        "photos.tar.gz", [{"jpg": jpegs[0], "json": texts[0]}, {"json": texts[1], "jpg": jpegs[1]}], "w:gz"
    )
    source = opened("records", prepare(path)[0])
    assert (source.class_names, list(source.labels)) == (["disc", "ring"], [1, 0])
    source = opened("records", prepare(path, "--label_column=kind", output="again")[0])
    assert (source.class_names[7], list(source.labels)) == ("7", [7, 7])
    with pytest.raises(UserError, match="--label_column=colour: .*00000.jpg has no label"):
        prepare(path, "--label_column=colour", output="third")


def test_a_missing_label_removes_all_with_a_warning(write_tar, prepare, jpegs, caplog):
    path = write_tar("a.tar", [{"jpg": jpegs[0], "cls": b"1"}, {"jpg": jpegs[1]}])
    with caplog.at_level("WARNING", "simclr_jax"):
        output, _ = prepare(path)
    assert "no labels are used, because 1 of its images have none" in caplog.text
    assert opened("records", output).all_labels is None


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            b"99999999",
            "00001.jpg has the label 99999999, but labels are the numbers of classes, from 0 to 999999, or -1",
        ),
        (b"-7", "00001.jpg has the label -7, but"),
        (b"999999", "a label is 999999, which makes 1,000,000 classes, but there are 2 images, of 2 classes"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_its_value(write_tar, prepare, jpegs, label, message):
    path = write_tar("a.tar", [{"jpg": jpegs[0], "cls": b"0"}, {"jpg": jpegs[1], "cls": label}])
    with pytest.raises(UserError, match=message):
        prepare(path)


def test_labels_in_parquet_and_json_have_the_same_limit(write_tar, write_parquet, prepare, jpegs):
    path = write_parquet("a.parquet", jpegs[:2], [0, 10**9])
    with pytest.raises(UserError, match=r"a.parquet/1/1.jpg has the label 1000000000, but"):
        prepare(path)
    path = write_tar("a.tar", [{"jpg": jpegs[0], "json": b'{"label": 1e300}'}])
    with pytest.raises(UserError, match="has the label 1000"):
        prepare(path, output="b")


def test_odd_labels_are_text_or_none(write_tar, prepare, jpegs):
    labels = ["5", "\N{SUPERSCRIPT TWO}", "--1", "1"]
    path = write_tar("a.tar", [{"jpg": jpegs[n], "cls": label.encode()} for n, label in enumerate(labels)])
    source = opened("records", prepare(path)[0])
    assert [source.class_names[label] for label in source.labels] == labels
    path = write_tar("b.tar", [{"jpg": jpegs[0], "json": b'{"label": Infinity}'}])
    assert opened("records", prepare(path, output="b")[0]).all_labels is None


def test_names_that_are_not_utf8_are_skipped_and_named(tmp_path, write_tar, prepare, jpegs, caplog):
    odd = "odd\udcff"
    for name in ("a", odd):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(jpegs[0])
    assert opened("records", prepare(tmp_path / "photos")[0]).num_examples == 1
    assert caplog.text.count(r"the name 'odd\udcff.jpg' is not UTF-8") == 1
    folder = write_tar("a.tar", [{"jpg": jpegs[0]}]).parent
    write_tar(f"{odd}.tar", [{"jpg": jpegs[0]}])
    for number, images in enumerate((folder, folder / "*.tar")):
        caplog.clear()
        assert opened("records", prepare(images, output=f"tar{number}")[0]).num_examples == 1
        assert r"odd\udcff.tar' is not UTF-8; it is skipped" in caplog.text
    inside = write_tar("b.tar", [{f"{odd}.jpg": jpegs[0]}])
    assert list(opened("records", prepare(inside, output="inside")[0]).ids) == [r"b.tar/some/00000.odd\xff.jpg"]


def test_patterns_and_splits_in_names():
    assert _expanded("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert _expanded("{train,val}-{0..1}.tar") == ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]
    assert _expanded("plain.tar") == ["plain.tar"]
    named = {"test/d/imagenet-val-00.tar": "val", "test/d/validation-0-of-1.parquet": "validation"}
    named |= {"test/d/test/0000.parquet": "test", "test/d/latest/constraint-0.tar": "train"}
    assert {name: _split_of(name, "test/d") for name in named} == named
    assert {name: _split_of(name, "test/d/") for name in named} == named
    assert _split_of("test/a-0.tar", "test/a-0.tar") == "train"
    assert _split_of("test/a-0.tar", "test/a-*.tar") == "train"
    assert _split_of("test/a-0.tar", "*/a-{0..1}.tar") == "test"


# --- Parquet -------------------------------------------------------------------------------------------------------


def test_parquet_of_hugging_face_with_names_of_classes(write_parquet, prepare, jpegs):
    write_parquet("train-00000-of-00002.parquet", jpegs[:2], [2, 0], ["a", "b", "c"])
    write_parquet("train-00001-of-00002.parquet", jpegs[2:3], [2], ["a", "b", "c"])
    folder = write_parquet("test-00000-of-00001.parquet", jpegs[3:5], [-1, -1], ["a", "b", "c"]).parent
    output, _ = prepare(folder)
    train, test = opened("records", output), opened("records", output, "test")
    assert (contents(train), list(train.labels), train.class_names) == (jpegs[:3], [2, 0, 2], ["a", "b", "c"])
    assert (contents(test), test.all_labels, test.class_names) == (jpegs[3:5], None, None)
    assert train.ids[1] == "train-00000-of-00002.parquet/1/1.jpg"


def test_two_classes_of_one_name_in_parquet_are_refused(write_parquet, prepare, jpegs):
    path = write_parquet("a.parquet", jpegs[:2], [2, 0], ["crane", "b", "crane"])
    with pytest.raises(UserError, match=r"a.parquet: two classes of the column 'label' are named 'crane'"):
        prepare(path)


def test_the_columns_of_parquet_can_be_named(write_parquet, prepare, jpegs):
    path = write_parquet("a.parquet", jpegs[:2], column="photo")
    source = opened("records", prepare(path, "--label_column=size")[0])
    assert (contents(source), list(source.labels)) == (jpegs[:2], [0, 1])
    with pytest.raises(UserError, match=r"--image_column=foto: .* has no such column \(did you mean 'photo'\?\)"):
        prepare(path, "--image_column=foto", output="b")
    with pytest.raises(UserError, match="--label_column=kind: .* has no such column; it has photo, size"):
        prepare(path, "--label_column=kind", output="b")
    with pytest.raises(UserError, match="--image_column=size: the column of .* has no bytes of image files"):
        prepare(path, "--image_column=size", output="b")
