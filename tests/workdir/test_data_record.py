"""Which data a workdir is about: the facts, what differs between two, and what is refused."""

import json
import logging
import shutil

from etils import epath
from helpers import write_image
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.workdir import data_record


def photos(root, counts=(("cat", 3), ("dog", 2))):
    for name, count in counts:
        for number in range(count):
            write_image(root / "train" / name / f"{number}.png", seed=hash_of(name, number))
    return root


def hash_of(name, number):
    return sum(map(ord, name)) * 100 + number


def facts(root):
    data = ConfigDict({"source": "folder", "root": str(root), "train_split": "train", "test_split": None})
    return sources.fingerprint(sources.open_source(data, "train"))


def invert(path):
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


CHANGES = {
    "nothing": (lambda root: None, []),
    "grown": (lambda root: write_image(root / "train" / "cat" / "9.png"), ["5 images are now 6"]),
    "shrunk": (lambda root: (root / "train" / "cat" / "0.png").unlink(), ["5 images are now 4"]),
    "renamed": (
        lambda root: (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "00.png"),
        ["the images have other names"],
    ),
    "relabelled": (
        lambda root: (root / "train" / "dog" / "1.png").rename(root / "train" / "cat" / "7.png"),
        ["the labels differ", "the images have other names"],
    ),
    "edited": (lambda root: invert(root / "train" / "dog" / "0.png"), ["the contents of the images differ"]),
    "class renamed": (
        lambda root: (root / "train" / "dog").rename(root / "train" / "wolf"),
        ["the classes are other ones", "the images have other names"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_a_folder_is_named(tmp_path, change):
    root = photos(tmp_path / "photos")
    before = facts(root)
    make, wanted = CHANGES[change]
    make(root)
    found = data_record.differences({"training images": before}, {"training images": facts(root)})
    assert len(found) == bool(wanted)
    assert all(text in found[0] for text in wanted), found
    assert not found or found[0].startswith("training images: ")


def test_a_folder_that_was_moved_is_the_same(tmp_path):
    before = facts(photos(tmp_path / "photos"))
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    now = facts(tmp_path / "elsewhere")
    assert before.pop("name") != now.pop("name")
    assert before == now


def test_large_sets_are_not_read(tmp_path, monkeypatch):
    root = photos(tmp_path / "photos")
    monkeypatch.setattr(sources.fingerprint.__globals__["zlib"], "crc32", None)
    monkeypatch.setitem(sources.fingerprint.__globals__, "SMALL_EXAMPLES", 4)
    assert facts(root)["contents"] is None
    monkeypatch.undo()
    monkeypatch.setitem(sources.fingerprint.__globals__, "SMALL_BYTES", 1000)
    assert facts(root)["contents"] is None


def test_other_data_are_refused_or_accepted_and_remembered(tmp_path, caplog):
    workdir = epath.Path(tmp_path)
    record = {"training images": {"images": 45, "labels": "a"}, "encoder": {"step": 38, "weights": "x"}}
    assert data_record.check(workdir, record, accept=False) == record, "a new workdir"
    data_record.write(workdir, record)
    assert data_record.check(workdir, record, accept=False) == record
    other = {"training images": {"images": 36, "labels": "a"}, "encoder": {"step": 38, "weights": "y"}}
    said = "training images: 45 images are now 36; encoder: it has other weights"
    with pytest.raises(
        UserError, match=f"is a run on other data: {said}. Take another --workdir, or .*--accept_new_data"
    ):
        data_record.check(workdir, other, accept=False)
    caplog.set_level(logging.WARNING, "simclr_jax")
    accepted = data_record.check(workdir, other, accept=True)
    assert said in caplog.text
    data_record.write(workdir, accepted)
    assert json.loads((tmp_path / "data.json").read_text()) == accepted
    assert accepted["before"] == [record | {"differed": said.split("; ")}]
    # From now on these are its data, and what they were is not forgotten.
    assert data_record.check(workdir, other, accept=False)["before"] == accepted["before"]
    with pytest.raises(UserError):
        data_record.check(workdir, record, accept=False)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[1]", "{", "\udcff", "{}", '{"a": 1}', '{"training images": 5}', '{"training images": [1]}'),
        *(
            '{"training images": {}}',
            '{"training images": {"a": 1}}',
            '{"training images": null}',
            '{"training images": {"images": 45}, "encoder": "x"}',
        ),
        *('{"training images": {"images": 45}, "before": 3}', '{"training images": {"images": 45}, "before": [3]}'),
    ],
)
def test_a_damaged_record_is_refused_or_kept_aside(tmp_path, content, caplog):
    """Otherwise any images would do."""
    content = content.encode(errors="surrogateescape")
    (tmp_path / "data.json").write_bytes(content)
    workdir, record = epath.Path(tmp_path), {"training images": {"images": 45}}
    assert data_record.read(workdir) is None
    with pytest.raises(UserError, match="data.json is damaged, so nothing says on which images .* --accept_new_data"):
        data_record.check(workdir, record, accept=False)
    with caplog.at_level(logging.WARNING, "simclr_jax"):
        assert data_record.check(workdir, record, accept=True) == record
    assert (tmp_path / "data.damaged.json").read_bytes() == content
    assert "data.damaged.json" in caplog.text


@pytest.mark.parametrize(
    ("workdir", "refused"),
    [
        ("photos/train/runs", True),
        ("photos/train", True),
        ("photos/runs", False),
        ("photos/train/.runs/a", False),
        ("runs", False),
    ],
)
def test_a_workdir_among_the_images_is_refused(tmp_path, workdir, refused):
    root = photos(tmp_path / "photos")
    data = ConfigDict({"source": "folder", "root": str(root), "train_split": "train", "test_split": None})
    source = sources.open_source(data, "train")
    if refused:
        with pytest.raises(UserError, match="is within the images, .*Take a folder outside"):
            sources.check_outside(tmp_path / workdir, data, source)
    else:
        sources.check_outside(tmp_path / workdir, data, source)


def test_records_are_told_apart_by_their_index(tmp_path):
    pytest.importorskip("array_record", reason="the extra records is not installed")
    root = photos(tmp_path / "photos")
    found = []
    for name in ("one", "same", "grown"):
        if name == "grown":
            write_image(root / "train" / "cat" / "9.png")
        cli.call("prepare", f"--images={root}", f"--output={tmp_path / name}", "--processes=1")
        data = ConfigDict(
            {"source": "records", "root": str(tmp_path / name), "train_split": "train", "test_split": None}
        )
        found.append({"training images": sources.fingerprint(sources.open_source(data, "train"))})
    assert data_record.differences(found[0], found[1]) == []
    assert "5 images are now 6, the images have other names" in data_record.differences(found[0], found[2])[0]
