"""simclr_jax.embed and simclr_jax.predict: tables, unreadable images, interruptions, mistakes."""

import csv
import json

from etils import epath
from helpers import write_image
import numpy as np
from pyarrow import parquet
import pytest

import simclr_jax
from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.inference import stream
from simclr_jax.inference.named_images import open_images
from simclr_jax.inference.rows import Parts
from simclr_jax.runtime import cli
from simclr_jax.runtime.run_monitor import RunMonitor

pytestmark = pytest.mark.slow  # for the runs that all tests use


def embed(runs, output, images, *words):
    return cli.call("embed", f"--pretrained={runs}/pretrained", f"--images={images}", f"--output={output}", *words)


def read(output):
    """Paths, labels (None without) and vectors of a table."""
    if output.suffix == ".npz":
        table = np.load(output)
        return table["path"].tolist(), table["label"].tolist() if "label" in table else None, table["vector"]
    if output.suffix == ".csv":
        header, *lines = csv.reader(output.open(newline=""))
        first = header.index("v0")
        labels = [line[1] for line in lines] if first == 2 else None
        return [line[0] for line in lines], labels, np.array([line[first:] for line in lines], np.float32)
    table = parquet.read_table(output)
    vectors = np.array([row if row is not None else [np.nan] * 64 for row in table["vector"].to_pylist()], np.float32)
    return table["path"].to_pylist(), table["label"].to_pylist() if "label" in table.schema.names else None, vectors


@pytest.mark.parametrize("ending", [".parquet", ".npz", ".csv"])
def test_a_table_has_every_path_label_and_vector(runs, tmp_path, image_folder, ending):
    output = tmp_path / f"vectors{ending}"
    assert embed(runs, output, image_folder / "train", "--batch_size=16") == {"images": 24, "unreadable": 0}
    paths, labels, vectors = read(output)
    assert paths == sorted(str(path) for path in (image_folder / "train").rglob("*.*"))
    assert labels == [path.split("/")[-2] for path in paths]
    np.testing.assert_allclose(vectors, simclr_jax.load(runs / "pretrained").embed(paths), atol=2e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", output.name]


def test_parquet_has_a_list_of_fixed_size_and_says_where_it_is_from(runs, tmp_path):
    embed(runs, tmp_path / "x.parquet", "digits:test", "--features=z")
    schema = parquet.read_schema(tmp_path / "x.parquet")
    assert str(schema.field("vector").type) == "fixed_size_list<element: float>[128]"
    about = json.loads(schema.metadata[b"simclr_jax"])
    assert (about["features"], about["step"], about["image_size"]) == ("z", 9, 8)
    assert about["encoder"].endswith("pretrained/checkpoints/9")


def test_images_can_be_named_in_many_ways(runs, tmp_path, image_folder):
    assert open_images("digits").num_examples == 1797
    both = open_images(str(image_folder))  # train and test are no classes
    assert (both.num_examples, both.class_names) == (36, ["cat", "dog", "owl"])
    assert open_images(str(image_folder / "train" / "cat")).class_names is None
    first = str(image_folder / "train" / "cat" / "0.jpg")
    assert open_images(first).num_examples == 1
    (tmp_path / "list.txt").write_text(f"{first}\tcat\n\n{image_folder}/train/owl/1.png\tan owl\n")
    listed = open_images(str(tmp_path / "list.txt"))
    assert (listed.ids[0], listed.class_names, listed.labels.tolist()) == (first, ["an owl", "cat"], [1, 0])
    embed(runs, tmp_path / "list.csv", tmp_path / "list.txt")
    assert read(tmp_path / "list.csv")[1] == ["cat", "an owl"]


@pytest.mark.parametrize(
    ("ending", "unreadable"), [(".parquet", "skip"), (".parquet", "null"), (".npz", "null"), (".csv", "null")]
)
def test_unreadable_images_are_counted_and_named(runs, tmp_path, image_folder, ending, unreadable):
    bad = image_folder / "train" / "dog" / "bad.jpg"
    bad.write_bytes((image_folder / "train" / "dog" / "0.jpg").read_bytes()[:40])
    output = tmp_path / f"x{ending}"
    embed_words = ("--batch_size=8", f"--unreadable={unreadable}")
    if ending == ".csv" and unreadable == "null":
        assert embed(runs, output, image_folder / "train", *embed_words)["unreadable"] == 1
        assert f"{bad},dog" + "," * 64 in output.read_text().splitlines()
        return
    assert embed(runs, output, image_folder / "train", *embed_words) == {"images": 25, "unreadable": 1}
    paths, labels, vectors = read(output)
    assert (str(bad) in paths) == (unreadable == "null")
    if unreadable == "null":
        place = paths.index(str(bad))
        assert labels[place] == "dog"
        assert np.isnan(vectors[place]).all()
        assert np.isnan(vectors).any(axis=1).sum() == 1
    else:
        assert not np.isnan(vectors).any()


def test_an_interrupted_table_continues_to_the_same(runs, tmp_path, monkeypatch):
    words = ("digits:test", "--batch_size=64")
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    embed(runs, whole, *words)
    monkeypatch.setattr(stream, "STORE_SECONDS", 0.0)
    stopping = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "poll", lambda self: next(stopping))
        with pytest.raises(Preempted, match="the same command continues"):
            embed(runs, parts, *words)
    assert not parts.exists()
    stored = sorted(path.name for path in (tmp_path / "parts.parquet.partial").glob("*.npz"))
    assert stored == [f"{step:09d}_{step + 1:09d}.npz" for step in range(3)]
    with pytest.raises(
        UserError, match="beginning of another run: features is 'z', but was 'h'. Continue with the same"
    ):
        embed(runs, parts, *words, "--features=z")
    seen = []
    batches = simclr_jax.inference.encoder.Encoder.batches
    monkeypatch.setattr(
        "simclr_jax.inference.encoder.Encoder.batches",
        lambda self, *args, **kwargs: seen.append(kwargs["start_step"]) or batches(self, *args, **kwargs),
    )
    embed(runs, parts, *words)
    assert seen == [3]
    assert parquet.read_table(parts).equals(parquet.read_table(whole))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.parquet", "whole.parquet"]


def test_a_hole_in_the_parts_is_computed_again(tmp_path):
    parts = Parts(epath.Path(tmp_path / "x.csv"), {"a": 1})
    assert parts.open() == 0
    assert not parts.folder.exists()
    rows = stream.Rows(["p"], [""], np.ones(1, bool), np.ones([1, 2], np.float32), np.zeros([1, 0], np.int32))
    parts.add(0, 2, rows)
    parts.add(3, 4, rows)
    assert parts.open() == 2
    assert parts.counts() == (1, 1)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_predictions_have_the_five_most_probable_classes(runs, tmp_path, ending):
    output = tmp_path / f"classes{ending}"
    cli.call("predict", f"--finetuned={runs}/probe", "--images=digits:test", f"--output={output}")
    from simclr_jax.data.sources.digits import open_digits

    source = open_digits("test")
    images = [source.fetch(row).numpy() for row in range(source.num_examples)]
    classes, probabilities = simclr_jax.load(runs / "probe").predict(images)
    lines = (
        parquet.read_table(output).to_pylist() if ending == ".parquet" else [*csv.DictReader(output.open(newline=""))]
    )
    assert list(lines[0]) == [
        *("path", "label", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"),
        *("class_4", "probability_4", "class_5", "probability_5"),
    ]
    assert [line["class"] for line in lines] == classes
    np.testing.assert_allclose([float(line["probability"]) for line in lines], probabilities.max(axis=1), rtol=1e-5)
    fifth = np.sort(probabilities, axis=1)[:, -5]
    np.testing.assert_allclose([float(line["probability_5"]) for line in lines], fifth, rtol=1e-5)


def test_mistakes_are_one_line_and_leave_nothing(runs, tmp_path, image_folder):
    (tmp_path / "there.csv").write_text("")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "half.txt").write_text("a.jpg\tcat\nb.jpg\n")
    (tmp_path / "gone.txt").write_text("gone.jpg\n")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    (tmp_path / "empty").mkdir()
    for name in ("a", "b"):
        (tmp_path / "bad" / f"{name}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{name}.jpg").write_text("no image")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "x.csv"
    wrong = [
        ((runs, tmp_path / "x.txt", "digits"), "has to end with .parquet or .npz or .csv"),
        ((runs, tmp_path / "there.csv", "digits"), "there.csv exists: --overwrite replaces it"),
        ((runs, tmp_path / "no" / "x.csv", "digits"), "there is no folder .*no"),
        ((runs, out, "digits", "--features=y"), "--features=y: give h, z, or g1"),
        ((runs, out, "digits", "--features=g3"), "the projection head has 2 layer"),
        ((runs, out, "digits:val"), "the splits are train and test"),
        ((runs / "no", out, "digits"), "--pretrained='.*' does not exist"),
        ((runs, out, tmp_path / "nowhere"), "nowhere' does not exist: give a folder"),
        ((runs, out, tmp_path / "empty"), "no images in "),
        ((runs, out, tmp_path / "empty.txt"), "is an empty list"),
        ((runs, out, tmp_path / "half.txt"), "'b.jpg' has none"),
        ((runs, out, tmp_path / "gone.txt"), "'gone.jpg' does not exist"),
        ((runs, out, tmp_path / "binary"), "is no text file with the path"),
        ((runs, out, "tfds:mnist"), "give tfds:NAME:SPLIT"),
        ((runs, out, tmp_path / "bad"), "none of the 2 images of .*bad can be read"),
        ((runs, out, image_folder, "--unreadable=no"), "--unreadable=no: should be one of skip, null"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError, match=message) as refused:
            embed(*arguments)
        assert "\n" not in str(refused.value), arguments
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(UserError, match="--finetuned='.*pretrained' has no classifier, only an encoder"):
        cli.call("predict", f"--finetuned={runs}/pretrained", "--images=digits", f"--output={out}")


def test_parquet_without_pyarrow_names_the_extra(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'simclr_jax\[embed\]'"):
        embed(runs, tmp_path / "x.parquet", "digits")


def test_knn_of_a_folder_without_labels_draws_only(runs, tmp_path):
    for number in range(12):
        write_image(tmp_path / "flat" / f"{number}.png", seed=number)
    folder = ("--config.data.source=folder", f"--config.data.root={tmp_path / 'flat'}", "--config.batch_size=8")
    results = cli.call("knn", f"--pretrained={runs}/pretrained", f"--workdir={tmp_path / 'knn'}", *folder)
    assert (results["top1"], results["n"], results["draws"]) == (None, 12, [])
    for name in ("embedding_map.png", "neighbours.png", "results.json", "config.json"):
        assert (tmp_path / "knn" / name).stat().st_size > 0
    page = tmp_path / "page.html"
    cli.call("report", f"--workdirs={tmp_path / 'knn'}", f"--output={page}")
    assert "no labels" in page.read_text()


def test_damaged_parts_are_named_and_overwritten(tmp_path):
    parts = Parts(epath.Path(tmp_path / "x.csv"), {"a": 1})
    rows = stream.Rows(["p"], [""], np.ones(1, bool), np.ones([1, 2], np.float32), np.zeros([1, 0], np.int32))
    parts.add(0, 1, rows)
    (parts.folder / "000000000_000000001.npz").write_bytes(b"PK\x03\x04torn")
    for read in (parts.counts, lambda: list(parts)):
        with pytest.raises(UserError, match="000000000_000000001.npz is damaged .*: delete .*x.csv.partial, and run"):
            read()
    (parts.folder / "run.json").write_text('{"a"')
    with pytest.raises(UserError, match="run.json is damaged .*: delete .*, or start anew with --overwrite"):
        parts.open()
    assert parts.open(overwrite=True) == 0
