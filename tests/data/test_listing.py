"""Folders as people have them: what is found in them, what is left out and said, and what is refused."""

import os

from helpers import write_image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import sources
from simclr_jax.data.sources import listing
from simclr_jax.data.sources.files import of_files
from simclr_jax.errors import UserError


def opened(root, split="train", **fields):
    data = config_lib.pretrain().data
    data.update(source="folder", root=str(root), image_size=8, eval_crop=1.0, **fields)
    return sources.open_source(data, split)


def names(root, source):
    return [os.path.relpath(path, root) for path in source.ids]


def test_hidden_folders_and_files_are_skipped(tmp_path):
    for name in ("train/cat/0.jpg", "train/.ipynb_checkpoints/0.jpg", ".thumbnails/1.jpg", "train/cat/._0.jpg"):
        write_image(tmp_path / name)
    source = opened(tmp_path)
    assert names(tmp_path, source) == ["train/cat/0.jpg"]
    assert source.class_names == ["cat"]


def test_a_folder_behind_links_is_read_once(tmp_path):
    write_image(tmp_path / "a" / "0.jpg")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "up").symlink_to(tmp_path)
    assert len(opened(tmp_path).ids) == 1


def test_a_name_that_is_not_utf8_is_skipped_and_named(tmp_path, caplog):
    write_image(tmp_path / "0.jpg")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write((tmp_path / "0.jpg").read_bytes())
    with caplog.at_level("WARNING", "simclr_jax"):
        assert names(tmp_path, opened(tmp_path)) == ["0.jpg"]
    assert r"'caf\udce9.jpg' is not UTF-8" in caplog.text


def test_links_to_nothing_and_pipes_are_skipped_and_named(tmp_path, caplog):
    """Reading a pipe waits for ever."""
    write_image(tmp_path / "0.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    with caplog.at_level("WARNING", "simclr_jax"):
        assert names(tmp_path, opened(tmp_path)) == ["0.jpg"]
    for name in ("pipe", "broken", "circle"):
        assert f"{name}.jpg is no file; it is skipped." in caplog.text


def test_other_files_are_counted_by_extension_and_the_extra_is_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(listing, "readable", lambda: (".jpg",))
    write_image(tmp_path / "0.jpg")
    for name in ("1.HEIC", "2.heic", "notes.txt", "README"):
        (tmp_path / name).write_text("x")
    with caplog.at_level("INFO", "simclr_jax"):
        opened(tmp_path)
    assert "4 files are left out (2 .heic, 1 " in caplog.text
    assert "To read .heic: pip install 'simclr_jax[formats]'." in caplog.text


def test_labels_that_a_stray_image_removes_are_missed_aloud(tmp_path, caplog):
    for name in ("train/cat/0.jpg", "train/dog/0.jpg", "train/cover.jpg"):
        write_image(tmp_path / name)
    with caplog.at_level("WARNING", "simclr_jax"):
        assert opened(tmp_path).class_names is None
    assert "no labels are used, because 1 of its images are in no class folder, as cover.jpg" in caplog.text


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        (
            ("train/a/0.jpg",),
            {"train_split": "trian"},
            "train_split is 'trian', but .* has no such folder; it has train",
        ),
        (("Train/a/0.jpg", "Test/a/0.jpg"), {}, "has a folder 'Train': take --config.data.train_split=Train"),
        (("bus/0.jpg", "car/0.jpg", "train/0.jpg"), {}, "a folder train beside other ones with images, as bus, car"),
    ],
)
def test_folders_of_two_meanings_are_refused(tmp_path, files, fields, message):
    for name in files:
        write_image(tmp_path / name)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, **fields)


def test_what_such_messages_suggest_works(tmp_path):
    for name in ("bus/0.jpg", "car/0.jpg", "train/0.jpg"):
        write_image(tmp_path / name)
    assert opened(tmp_path, train_split=".").class_names == ["bus", "car", "train"]
    assert len(opened(tmp_path / "train").ids) == 1
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "only" / "train" / "a" / "0.jpg")
    (tmp_path / "only" / "annotations").mkdir()
    assert opened(tmp_path / "only").class_names == ["a"], "a folder without images is no question"


def test_test_images_among_all_are_said(tmp_path, caplog):
    for name in ("a/0.jpg", "Test/a/0.jpg"):
        write_image(tmp_path / name)
    with caplog.at_level("WARNING", "simclr_jax"):
        assert len(opened(tmp_path).ids) == 2
    assert "all images in it are used, also those in Test" in caplog.text


def test_a_class_may_have_any_name_that_is_text(tmp_path):
    for name in ("no\u00a0break", "狗", "$a_{$"):
        write_image(tmp_path / "train" / name / "0.jpg")
    source = opened(tmp_path)
    assert source.class_names == sorted(["no\u00a0break", "狗", "$a_{$"])
    assert sorted(source.labels) == [0, 1, 2]


def test_a_folder_of_a_mac_has_no_images(tmp_path):
    write_image(tmp_path / "__MACOSX" / "train" / "cat" / "._0.png")
    assert not listing.has_image(str(tmp_path))


def test_a_list_with_a_pipe_does_not_wait_for_it(tmp_path):
    path = write_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    source = of_files([str(path), str(tmp_path / "pipe.png"), str(tmp_path / "folder.png")])
    assert source.content(0) == path.read_bytes()
    for row in (1, 2):
        with pytest.raises(OSError, match="it is no regular file: .*png"):
            source.content(row)
