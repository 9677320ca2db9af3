"""Labels from a table, and lists of images: which images a source has, their classes, and each mistake with its line."""

import csv
import os

from absl import flags
from etils import epath
from helpers import UNTRAINED
from helpers import write_image
import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import checks
from simclr_jax.config import saved
from simclr_jax.data import sources
from simclr_jax.data.sources import label_table
from simclr_jax.errors import UserError
from simclr_jax.inference.images import sources_of
from simclr_jax.inference.named_images import open_images
from simclr_jax.runtime import cli
from simclr_jax.runtime import extras
from simclr_jax.runtime import files
from simclr_jax.runtime.flags import parse_run


def opened(root, split="train", **fields):
    data = config_lib.pretrain().data
    data.update(source="folder", root=str(root), image_size=8, eval_crop=1.0, **fields)
    return sources.open_source(data, split)


@pytest.fixture
def photos(tmp_path):
    """Six images in one folder and one below it."""
    for number in range(6):
        write_image(tmp_path / "photos" / f"{number}.png", seed=number)
    write_image(tmp_path / "photos" / "more" / "6.png", seed=6)
    return tmp_path / "photos"


def write_table(path, rows, form):
    names, *values = rows
    if form == "csv":
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    else:
        columns = {name: [row[place] for row in values] for place, name in enumerate(names)}
        parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def names(source):
    return [os.path.basename(path) for path in source.ids]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_gives_classes_and_splits(photos, tmp_path, form):
    rows = [
        ("class", "path", "split", "note"),
        ("dog", "0.png", "train", ""),
        ("cat", "more/6.png", "train", "x"),
        ("cat", str(photos / "3.png"), "val", ""),
        ("dog", "./1.png", "val", ""),
        ("dog", "5.png", "held out", ""),
    ]
    table = write_table(tmp_path / f"labels.{form}", rows, form)
    train, test = opened(photos, labels=table), opened(photos, "test", labels=table)
    assert (names(train), train.class_names, train.labels.tolist()) == (["0.png", "6.png"], ["cat", "dog"], [1, 0])
    assert (names(test), test.class_names, test.labels.tolist()) == (["1.png", "3.png"], ["cat", "dog"], [1, 0])
    assert names(opened(photos, "test", labels=table, test_split="held out")) == ["5.png"]
    assert names(opened(photos, labels=table, train_split="val")) == ["1.png", "3.png"]
    with pytest.raises(UserError, match=r"has no split dev: it has held out, train, val.*--config.data.test_split"):
        opened(photos, "test", labels=table, test_split="dev")


def test_without_a_column_split_all_are_training_images(photos, tmp_path):
    table = write_table(tmp_path / "labels.csv", [("path", "class"), ("0.png", "7"), ("1.png", "12")], "csv")
    source = opened(photos, labels=table)
    assert (names(source), source.class_names, source.labels.tolist()) == (["0.png", "1.png"], ["12", "7"], [1, 0])
    for fields, split in (({}, "test"), ({"train_split": "mine"}, "train")):
        with pytest.raises(UserError, match="has no split .*it has no column split"):
            opened(photos, split, labels=table, **fields)


def test_what_has_no_partner_is_counted_and_named(photos, tmp_path, caplog):
    rows = [
        ("path", "class"),
        ("0.png", "a"),
        ("1.png", "b"),
        *((f"gone{n}.png", "a") for n in range(4)),
        ("0.png", "a"),
    ]
    table = write_table(tmp_path / "labels.csv", rows, "csv")
    with caplog.at_level("WARNING", "simclr_jax"):
        assert opened(photos, labels=table).num_examples == 2
    assert "4 rows are without an image, as gone0.png, gone1.png, gone2.png, ..." in caplog.text
    assert "5 images are not in this table and left out, as " in caplog.text
    caplog.clear()
    rows = [("path", "class"), *((path, "a") for path in ("more/6.png", *(f"{number}.png" for number in range(6))))]
    opened(photos, labels=write_table(tmp_path / "labels.csv", rows, "csv"))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\n0.png,a\n", "has no column class: it has path, label"),
        (b"file,label\n0.png,a\n", "has no column path and no column class: it has file, label"),
        (b"", "has no column path and no column class: it has none"),
        (b"path,class\n", "has no rows"),
        (b"path;class\n0.png;a\n", "separated by semicolons, but they have to be separated by commas"),
        (b"path\tclass\n0.png\ta\n", "separated by tabs"),
        ("path,class\nü.png,a\n".encode("latin-1"), r"is not UTF-8 \(at byte 11\)"),
        ("path,class\n0.png,a\n".encode("utf-16"), "is not UTF-8"),
        (b"path,class\n0.png,a\n1.png\n", "line 3 has 1 values for 2 columns"),
        (b"path,class\n0,1.png,a\n", "line 2 has 3 values for 2 columns. Values with commas are put in quotes"),
        (b'path,class\n"0.png,a\n', "is no CSV file: line 2: unexpected end of data"),
        (b"path,class,class\n0.png,a,a\n", "two columns 'class'"),
        (b"path,class\n0.png,\n", "line 2 has no class"),
        (b"path,class,split\n0.png,a,train\n1.png,a,\n", "line 3 has no split"),
        (b"path,class\n0.png,a\n0.png,b\n", "names '0.png' twice, with class 'a' and 'b'"),
        (b"path,class\n0.png,a\n./0.png,b\n", "names '.*/0.png' twice, with class 'a' and 'b'"),
        (b"path,class,split\n0.png,a,train\n0.png,a,test\n", "names '0.png' twice, with split 'train' and 'test'"),
        (b"path,class\nx/0.png,a\n", "none of the 1 rows is one of the 7 images of .*; the first one is 'x/0.png'"),
        (b"path,class,split\nx.png,a,train\n0.png,a,test\n", "no image of the split train is in"),
        (b"PAR1 and no more", "is no Parquet file"),
    ],
)
def test_each_mistake_in_a_table_has_its_line(photos, tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        opened(photos, labels=str(tmp_path / "labels.csv"))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_refused(photos, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist: give a CSV or Parquet file"):
        opened(photos, labels=str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="is a folder, but has to be"):
        opened(photos, labels=str(photos))
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")

    def missing(module, needs, extra, rest):
        raise UserError(f"{needs}: pip install 'simclr_jax[{extra}]'{rest}")

    monkeypatch.setattr(extras, "load", missing)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'simclr_jax\[embed\]'. Or give a .csv file"):
        opened(photos, labels=str(tmp_path / "labels.parquet"))
    config = config_lib.pretrain()
    config.data.update(source="tfds", labels="x.csv")
    with pytest.raises(UserError, match="config.data.labels is 'x.csv', but the images of config.data.source=tfds"):
        checks.check_values(config, 1)


def test_a_table_of_a_spreadsheet_is_read(photos, tmp_path):
    (tmp_path / "labels.csv").write_bytes(b'\xef\xbb\xbfpath, class\r\n"0.png","a, b"\r\n\r\n1.png,\xe7\x8b\x97\r\n')
    assert opened(photos, labels=str(tmp_path / "labels.csv")).class_names == ["a, b", "狗"]


def test_paths_in_a_bucket_are_compared_as_text():
    table = label_table.LabelTable("t", {"a/0.jpg": ("x", None), "gs://lab/photos/1.jpg": ("y", None)}, False)
    images = ["gs://lab/photos/1.jpg", "gs://lab/photos/a/0.jpg"]
    assert table.select(images, "gs://lab/photos/", None, say=False) == (images, ["y", "x"])


def test_home_is_expanded_wherever_a_path_is_given(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "labels.csv").write_text("path,class\n~/photos/0.png,a\n1.png,b\n")
    (tmp_path / "list.txt").write_text("~/photos/2.png\n")
    assert opened("~/photos", labels="~/labels.csv").class_names == ["a", "b"]
    for images in ("~/photos", "~/list.txt", "~/photos/3.png"):
        assert open_images(images).ids[0].startswith(str(photos))
    assert opened("~/list.txt").ids == [str(photos / "2.png")]
    (source,) = sources_of("~/photos")
    assert source.num_examples == 7
    assert str(files.absolute("~/photos")) == str(photos.resolve())  # simclr_jax.load
    values = flags.FlagValues()
    words = [
        "--config=folder:~/photos",
        "--config.data.labels=~/labels.csv",
        "--workdir=~/run",
        "--init_from",
        "~/other",
    ]
    parse_run(["pretrain", *words], values, "pretrain", check_places=False)
    assert values["config"].value.data.labels == f"{tmp_path}/labels.csv"
    assert opened(values["config"].value.data.root).num_examples == 7
    assert values["workdir"].value == f"{tmp_path}/run"
    assert values["init_from"].value == f"{tmp_path}/other"


@pytest.mark.parametrize("name", ["a,b;c.png", "a\u2028b.png", "  ~.png", "#1 50% [x]*?.png", "狗 é.png", "gs:/x.png"])
def test_odd_names_are_read_from_folders_lists_and_tables(tmp_path, name):
    image = write_image(tmp_path / "photos" / name)
    (tmp_path / "list.txt").write_text(f"{image}\n")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class"), (name.strip() if name[0] != " " else str(image), "a\nb")])
    for source in (
        opened(tmp_path / "photos"),
        opened(tmp_path / "list.txt"),
        opened(tmp_path / "photos", labels=str(tmp_path / "labels.csv")),
    ):
        assert source.ids == [str(image)]
        assert source.fetch(np.int64(0)).numpy() == image.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("photos/0.png\ta\nphotos/0.png\tb\n", "names 'photos/0.png' twice, as 'a' and as 'b'"),
        ("photos/0.png\ta\tb\n", "the line of 'photos/0.png' has 2 tabs, but"),
        ("photos/0.png\t\n", "the class is missing after the tab in the line of 'photos/0.png'"),
        ("photos/0.png\ta\nphotos/1.png\n", "'photos/1.png' has none"),
        ("http://example.com/a.jpg\nphotos/0.png\n", "'http://example.com/a.jpg' cannot be opened, because http://"),
    ],
)
def test_each_mistake_in_a_list_has_its_line(photos, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        opened("list.txt")


def test_an_address_of_the_web_is_no_folder_and_no_table(photos):
    with pytest.raises(UserError, match="config.data.root: 'http://.*' cannot be opened"):
        opened("http://example.com/photos")
    with pytest.raises(UserError, match="config.data.labels: 'http://.*' cannot be opened"):
        opened(photos, labels="http://example.com/labels.csv")


def test_a_list_is_training_data(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("photos/3.png\r\nphotos/more/6.png\n")
    source = opened("list.txt")
    assert (source.ids, source.class_names) == (["photos/3.png", "photos/more/6.png"], None)
    with pytest.raises(UserError, match="is a list, which has no test images: .*--config.data.labels"):
        opened("list.txt", "test")
    with pytest.raises(UserError, match="has no split 'val'"):
        opened("list.txt", train_split="val")
    with pytest.raises(UserError, match="is one image: give a folder"):
        opened("photos/3.png")
    (tmp_path / "labels.csv").write_text(
        f"path,class,split\nphotos/3.png,a,train\n{photos}/more/6.png,a,test\nphotos/0.png,a,test\n"
    )
    assert opened("list.txt", labels="labels.csv").ids == ["photos/3.png"]
    assert opened("list.txt", "test", labels="labels.csv").ids == ["photos/more/6.png"]
    (tmp_path / "list.txt").write_text("photos/3.png\tb\nphotos/0.png\ta\n")
    assert opened("list.txt").labels.tolist() == [1, 0]


def test_an_evaluation_reads_truncated_files_as_pretraining_does():
    pretrained = config_lib.pretrain()
    pretrained.data.update(source="folder", root="photos", truncated_jpeg="read")
    for fields, encoder, expected in (
        ({}, pretrained, "read"),
        ({"source": "tfds", "name": "cifar10"}, pretrained, "read"),
        ({"truncated_jpeg": "skip"}, pretrained, "skip"),
        ({}, None, "skip"),
    ):
        config = config_lib.finetune()
        config.data.update(fields)
        saved.inherit(config, encoder)
        assert config.data.truncated_jpeg == expected


def test_an_evaluation_inherits_the_table_with_the_folder_only():
    pretrained = config_lib.pretrain()
    pretrained.data.update(source="folder", root="photos", labels="labels.csv")
    for root, expected in ((None, "labels.csv"), ("photos", "labels.csv"), ("other", None)):
        config = config_lib.knn()
        config.data.root = root
        saved.inherit(config, pretrained)
        assert config.data.labels == expected
    moved = pretrained.copy_and_resolve_references()
    moved.data.update(root="there", labels="there/labels.csv")
    assert saved.differences(moved, pretrained) == []
    moved.data.labels = None
    assert len(saved.differences(moved, pretrained)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["linear_probe", "knn", "finetune"])
def test_evaluations_read_a_table(tmp_path, command):
    lines = ["path,class,split"]
    for number in range(24):
        write_image(tmp_path / "photos" / f"{number}.png", seed=number)
        lines.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 16 else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    words = [word for word in UNTRAINED if "source" not in word]
    words += [
        "--config.data.source=folder",
        "--config.model.stem=cifar",
        f"--config.data.root={tmp_path}/photos",
        "--config.batch_size=8",
    ]
    if command == "finetune":
        words += ["--config.epochs=1", "--config.choose_below=0"]
    results = cli.call(command, *words, f"--config.data.labels={tmp_path}/labels.csv", f"--workdir={tmp_path}/run")
    assert epath.Path(tmp_path / "run" / "results.json").exists()
    assert np.isfinite(results["top1"] if "top1" in results else results["draws"][0]["top1"])
    assert results.get("n", 8) == 8
