"""Search in tables of embeddings."""

import csv
import pathlib
import shutil

from helpers import write_image
import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
import pytest

from simclr_jax.errors import UserError
from simclr_jax.retrieval import groups as groups_lib
from simclr_jax.retrieval import tables
from simclr_jax.retrieval.index import Index
from simclr_jax.runtime import cli

PER_CLASS, CLASSES, DIM = 20, ("bus", "cat", "dog"), 16


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder of images, and embeddings of three well separated classes. Image 1 of each class is a copy of image 0."""
    root = tmp_path_factory.mktemp("search")
    random = np.random.default_rng(0)
    centres = 4 * np.eye(len(CLASSES), DIM)
    paths, labels, vectors = [], [], []
    for number, name in enumerate(CLASSES):
        for index in range(PER_CLASS):
            path = f"{name}/{index}.jpg"
            write_image(root / path, seed=100 * number + index)
            paths.append(path)
            labels.append(name)
            vectors.append(centres[number] + random.normal(size=DIM))
        vectors[-PER_CLASS + 1] = 3 * vectors[-PER_CLASS]
    vectors = np.array(vectors, np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    parquet.write_table(pa.table({"path": paths, "label": labels, "vector": column}), root / "x.parquet")
    np.savez(root / "x.npz", path=np.array(paths), label=np.array(labels), vector=vectors)
    with (root / "x.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(f"vector_{number}" for number in range(DIM))])
        writer.writerows([path, label, *vector] for path, label, vector in zip(paths, labels, vectors, strict=True))
    return root


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.csv"])
def test_every_format_gives_the_same_table(table, name):
    read = tables.read(str(table / name))
    assert read.paths[0] == "bus/0.jpg"
    assert read.labels == [label for label in CLASSES for _ in range(PER_CLASS)]
    vectors = unit(np.load(table / "x.npz")["vector"])
    np.testing.assert_allclose(read.vectors, unit(vectors - vectors.mean(axis=0)), rtol=1e-4, atol=1e-5)


def test_what_all_images_have_in_common_does_not_count():
    random = np.random.default_rng(0)
    vectors = unit(10 + random.normal(size=(50, 8)))
    assert (vectors @ vectors.T).min() > 0.9
    vectors[1] = vectors[0]
    apart = tables.around_mean(vectors.astype(np.float32))
    similarities = apart @ apart.T
    assert similarities[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(np.mean(similarities[np.triu_indices(50, 1)])) < 0.05
    same = np.repeat(vectors[:1], 50, axis=0).astype(np.float32)
    np.testing.assert_array_equal(tables.around_mean(same), same)
    few = vectors[:5].astype(np.float32)
    np.testing.assert_array_equal(tables.around_mean(few), few)


def search(table, output, *words):
    return cli.call("search", f"--embeddings={table / 'x.parquet'}", f"--output={output}", *words)


def test_the_nearest_images_are_those_of_a_plain_loop(table, tmp_path):
    search(table, tmp_path / "near.csv", "--nearest=cat/7.jpg", "--count=5")
    rows = list(csv.DictReader((tmp_path / "near.csv").open()))
    read = tables.read(str(table / "x.parquet"))
    similarity = read.vectors @ read.vectors[read.row("cat/7.jpg")]
    assert [row["path"] for row in rows] == [read.paths[number] for number in np.argsort(-similarity)[:6]]
    assert rows[0]["path"] == "cat/7.jpg", "an image is nearest to itself"
    assert float(rows[0]["similarity"]) == pytest.approx(1)


def test_copies_are_found_as_near_duplicates(table, tmp_path):
    groups = search(table, tmp_path / "same.csv", "--duplicates=0.9999")
    assert sorted(sorted(group.rows.tolist()) for group in groups) == [[0, 1], [20, 21], [40, 41]]
    assert all(group.similarities == pytest.approx([1, 1]) for group in groups)


def test_a_value_that_connects_most_images_is_told(table, tmp_path, caplog):
    search(table, tmp_path / "same.csv", "--duplicates=0.9999")
    assert "largest group" not in caplog.text
    search(table, tmp_path / "most.csv", "--duplicates=0.1")
    assert "The largest group has 60 of the 60 images" in caplog.text


def test_near_duplicates_are_connected_by_chains():
    angles = np.radians([0, 4, 8, 90, 94, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = tables.Embeddings([f"{number}.jpg" for number in range(6)], vectors)
    groups = groups_lib.duplicates(table, Index(vectors), np.cos(np.radians(5)))
    assert [group.rows.tolist() for group in groups] == [[1, 0, 2], [3, 4]], "the image in the middle has most of them"
    assert groups_lib.duplicates(table, Index(vectors), np.cos(np.radians(1))) == []


def test_equal_images_have_a_similarity_of_at_least_one():
    vectors = unit(np.random.default_rng(0).normal(size=(300, 2048)).astype(np.float32)).astype(np.float32)
    vectors[200:] = vectors[:100]
    vectors[50] = unit(vectors[50] + 0.01 * vectors[51])  # not the same any more
    table = tables.Embeddings([f"{number}.jpg" for number in range(300)], vectors)
    found = groups_lib.duplicates(table, Index(vectors), 1.0)
    assert sorted(group.rows.tolist() for group in found) == [[row, 200 + row] for row in range(100) if row != 50]
    half = np.array([[1, 0], [0.5, np.sqrt(0.75)], [-1, 0]], np.float32)
    table = tables.Embeddings(["a", "b", "c"], half)
    (group,) = groups_lib.duplicates(table, Index(half), 0.5)
    assert group.rows.tolist() == [0, 1], "exactly as similar"
    assert not groups_lib.duplicates(table, Index(half), float(np.nextafter(np.float32(0.5), np.float32(1))))


def test_clusters_are_the_classes(table, tmp_path):
    groups = search(table, tmp_path / "clusters.csv", "--clusters=3", "--count=4")
    assert sorted(group.size for group in groups) == [PER_CLASS] * 3
    assert all("100%" in group.title for group in groups)
    for group in groups:
        assert len({row // PER_CLASS for row in group.rows.tolist()}) == 1
        assert np.all(np.diff(group.similarities) <= 0), "the most typical image comes first"
    assert len(list(csv.reader((tmp_path / "clusters.csv").open()))) == 1 + 3 * 4


def test_a_page_shows_the_pictures_and_survives_a_missing_one(table, tmp_path):
    (tmp_path / "photos").symlink_to(table)
    groups = search(table, tmp_path / "a.html", "--clusters=3", f"--images={table}")
    text = (tmp_path / "a.html").read_text()
    assert text.count("data:image/jpeg;base64,") == sum(len(group.rows) for group in groups)
    search(table, tmp_path / "b.html", "--clusters=3")  # the relative paths begin elsewhere
    assert "no picture: cat/" in (tmp_path / "b.html").read_text()


def test_names_of_files_are_escaped(tmp_path):
    name = "<script>alert(1)</script>.jpg"
    (tmp_path / "<script>alert(1)<").mkdir()
    Image.new("RGB", (300, 100), "red").save(tmp_path / name, "JPEG")
    np.savez(tmp_path / "x.npz", path=np.array([name, "b.jpg"]), vector=np.eye(2, dtype=np.float32))
    words = (f"--embeddings={tmp_path / 'x.npz'}", f"--output={tmp_path / 'x.html'}", f"--images={tmp_path}")
    cli.call("search", *words, "--clusters=2")
    assert "<script>" not in (tmp_path / "x.html").read_text()


def test_a_large_table_gets_an_index_that_finds_nearly_all():
    """Embeddings in clusters, as those of a trained encoder are."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(50, 8))
    vectors = centres[random.integers(0, 50, 20_000)] + 0.5 * random.normal(size=(20_000, 8))
    vectors = unit(vectors @ random.normal(size=(8, 32))).astype(np.float32)
    exact, fast = (Index(vectors, exact=exact).nearest(vectors[:200], 11)[1] for exact in (True, False))
    recall = np.mean([len(set(right) & set(found)) / 11 for right, found in zip(exact, fast, strict=True)])
    assert recall > 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give one of --nearest, --duplicates and --clusters, not none of them"),
        (("--clusters=2", "--duplicates=0.9"), "not --duplicates and --clusters"),
        (("--clusters=61",), "--clusters=61: the table has only 60 images"),
        (("--clusters=0",), "--clusters=0"),
        (("--nearest=fox/1.jpg",), "--nearest=fox/1.jpg: the table has no such image"),
        (("--duplicates=2",), "--duplicates=2"),
        (("--clusters=2", "--output=x.pdf"), "--output=x.pdf: the file must end in .html or .csv"),
        (("--clusters=2", "--output=nowhere/x.csv"), "there is no folder nowhere"),
        (("--clusters=2", "--embeddings=x.txt"), "--embeddings=x.txt: the file must end in .parquet, .npz, .csv"),
        (("--clusters=2", "--embeddings=x.npz"), "--embeddings=x.npz: no such file"),
    ],
)
def test_mistakes_are_one_line(table, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        search(table, "out.csv", *words)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no table", "x.npz cannot be read"),
        ({"path": np.array(["a"])}, "has no column 'vector'"),
        ({"path": np.array([], str), "vector": np.zeros((0, 3))}, "has no rows with vectors"),
        ({"path": np.array(["a"]), "vector": np.full((1, 3), np.nan)}, "no vector that is finite"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, content, message):
    path: pathlib.Path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match=message):
        tables.read(str(path))


def test_an_output_is_not_replaced_unless_asked(table, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(UserError, match="exists: give another name, or --overwrite"):
        search(table, tmp_path / "a.csv", "--clusters=2")
    for name in ("a.csv", "a.html"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match="would be replaced, but is not an earlier output of simclr_jax.search"):
            search(table, tmp_path / name, "--clusters=2", "--overwrite")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
        for clusters in (2, 3):
            groups = search(table, tmp_path / name, f"--clusters={clusters}", "--overwrite")
            assert len(groups) == clusters
    shutil.copy(table / "x.csv", tmp_path / "x.csv")
    with pytest.raises(UserError, match="x.csv would be replaced"):
        cli.call(
            "search", f"--embeddings={tmp_path}/x.csv", f"--output={tmp_path}/x.csv", "--clusters=2", "--overwrite"
        )


def test_tables_that_hold_something_else_are_refused(tmp_path, caplog):
    good = np.eye(3, 4, dtype=np.float32)
    paths = ["a.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "predicted.csv").write_text("path,class,probability\na.jpg,1,0.5\nb.jpg,2,0.5\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.savez(tmp_path / "lengths.npz", path=paths[:2], vector=good)
    for name, message in (
        ("predicted.csv", "no column 'vector', but path, class, probability"),
        ("empty.csv", "no column 'path', but none"),
        ("junk.npz", "cannot be read: it is no file of named arrays"),
        ("lengths.npz", "3 vectors, but 2 rows in the column 'path'"),
    ):
        with pytest.raises(UserError, match=message):
            tables.read(str(tmp_path / name))
    good[1] = np.nan
    np.savez(tmp_path / "nan.npz", path=paths, vector=good)
    with caplog.at_level("WARNING", "simclr_jax"):
        assert tables.read(str(tmp_path / "nan.npz")).paths == ["a.jpg", "c.jpg"]
    assert "1 of 3 vectors are zero or not finite and are left out" in caplog.text
