"""`simclr_jax.prepare` that is killed and continued, and what it refuses."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from helpers import REPOSITORY
from helpers import write_image
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.preparing import shards
from simclr_jax.runtime import extras

_FILE = io.BytesIO()
Image.new("RGB", (20, 24)).save(_FILE, "JPEG")
EXAMPLE = _FILE.getvalue()


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def photos(tmp_path):
    for number in range(7):
        write_image(tmp_path / "photos" / f"{number}.jpg", seed=number)
    return tmp_path / "photos"


def opened(root):
    data = config_lib.pretrain().data
    data.update(source="records", root=str(root), image_size=12, eval_crop=1.0)
    return sources.open_source(data, "train")


def test_what_a_failure_left_is_continued_to_the_same_files(photos, prepare, monkeypatch, caplog):
    whole, _ = prepare(photos, "--shard_images=2", output="whole")
    real = shards._proven_places

    def fails(path, checksums):
        if len(list(pathlib.Path(path).parent.parent.glob("*.array_record"))) == 2:
            raise KeyboardInterrupt
        return real(path, checksums)

    monkeypatch.setattr(shards, "_proven_places", fails)
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, "--shard_images=2")
    output = photos.parent / "records"
    with pytest.raises(UserError, match="is not complete: run its command of simclr_jax.prepare again"):
        opened(output)
    monkeypatch.setattr(shards, "_proven_places", real)
    (output / "train" / ".writing-killed").mkdir()
    with caplog.at_level("INFO", "simclr_jax"):
        prepare(photos, "--shard_images=2")
    assert "Continuing after 2 of 4 files" in caplog.text
    assert files_of(output) == files_of(whole)
    with caplog.at_level("INFO", "simclr_jax"):
        prepare(photos, "--shard_images=2")
    assert "nothing to do" in caplog.text


@pytest.mark.heavy
def test_a_killed_command_is_continued_in_parallel_processes(photos, prepare):
    for number in range(7, 40):
        write_image(photos / f"{number}.png", seed=number, size=(400, 500))
    whole, _ = prepare(photos, "--shard_images=2", "--shorter_side=64", output="whole")
    output = photos.parent / "records"
    words = (f"--images={photos}", f"--output={output}", "--shard_images=2", "--shorter_side=64", "--processes=2")
    command = [sys.executable, "-m", "simclr_jax.prepare", *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=photos.parent, env=environment, stderr=subprocess.DEVNULL)
    while not list(output.rglob("*.npz")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, cwd=photos.parent, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert files_of(output) == files_of(whole)


def test_other_images_or_flags_are_refused_with_what_differs(photos, prepare):
    output, _ = prepare(photos)
    with pytest.raises(UserError, match="other images or flags: shorter_side is 64, but was 512"):
        prepare(photos, "--shorter_side=64")
    write_image(photos / "more.jpg")
    with pytest.raises(UserError, match="images is 8, but was 7"):
        prepare(photos)
    prepare(photos, "--overwrite")
    assert opened(output).num_examples == 8


def other_pixels(folder):
    """Other images with the same names and sizes in bytes, written later."""
    for path in folder.glob("*.bmp"):
        Image.effect_noise((20, 24), 50 + int(path.stem)).convert("RGB").save(path)
        os.utime(path, (time.time() + 100,) * 2)


@pytest.fixture
def bitmaps(tmp_path):
    (tmp_path / "bitmaps").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 24), (number,) * 3).save(tmp_path / "bitmaps" / f"{number}.bmp")
    return tmp_path / "bitmaps"


def test_other_images_of_the_same_sizes_are_other_images(bitmaps, prepare):
    output, _ = prepare(bitmaps)
    prepare(bitmaps)
    other_pixels(bitmaps)
    with pytest.raises(UserError, match="other images or flags: contents is '"):
        prepare(bitmaps)
    prepare(bitmaps, "--overwrite")
    assert opened(output).content(2) == (bitmaps / "2.bmp").read_bytes()


def test_a_tar_of_the_same_size_is_another_one(write_tar, prepare):
    tar = write_tar("a.tar", [{"bmp": b"BM 1"}, {"jpg": EXAMPLE, "cls": b"0"}])
    prepare(tar)
    write_tar("a.tar", [{"bmp": b"BM 2"}, {"jpg": EXAMPLE, "cls": b"1"}])
    with pytest.raises(UserError, match="other images or flags: contents is '"):
        prepare(tar)


@pytest.mark.parametrize("records_of", ["many images", "an earlier version"])
def test_where_contents_are_not_known_newer_images_are_a_warning(bitmaps, prepare, caplog, monkeypatch, records_of):
    if records_of == "many images":
        monkeypatch.setattr("simclr_jax.preparing.inputs.SMALL_EXAMPLES", 3)
    output, manifest = prepare(bitmaps)
    if records_of == "an earlier version":
        del manifest["facts"]["contents"]
        (output / "records.json").write_text(json.dumps(manifest))
    prepare(bitmaps)
    assert "newer" not in caplog.text
    other_pixels(bitmaps)
    prepare(bitmaps)
    assert "Images are newer than the records in" in caplog.text
    assert opened(output).content(2) != (bitmaps / "2.bmp").read_bytes()
    prepare(bitmaps, "--overwrite")
    assert opened(output).content(2) == (bitmaps / "2.bmp").read_bytes()


def test_a_folder_with_something_else_is_refused(photos, prepare, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="has other files: give a new folder"):
        prepare(photos)
    with pytest.raises(UserError, match="has other files"):
        prepare(photos, "--overwrite")
    with pytest.raises(UserError, match="which it would become a part of"):
        prepare(photos, output="photos/records")
    with pytest.raises(UserError, match="there is no folder"):
        prepare(photos, output="a/b/records")


@pytest.mark.parametrize("foreign", ["thesis.tex", "train/notes.txt", "train/my_images.npz", "photos/a.jpg"])
def test_nothing_that_it_has_not_written_is_removed(photos, prepare, foreign):
    output, _ = prepare(photos)
    path = output / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("...")
    before = files_of(output)
    with pytest.raises(
        UserError, match=rf"--overwrite would remove \S*/{foreign}, which simclr_jax.prepare has not written"
    ):
        prepare(photos, "--overwrite", "--shorter_side=64")
    (output / "records.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="--overwrite would remove"):
        prepare(photos, "--overwrite")
    assert files_of(output).keys() == before.keys()


def test_what_a_killed_call_left_is_removed_too(photos, prepare):
    output, _ = prepare(photos)
    (output / "train" / ".00000-of-00001.array_record.npz.tmp").write_text("...")
    (output / "train" / ".writing-a").mkdir()
    before = files_of(output)
    prepare(photos, "--overwrite", "--shorter_side=64")
    assert files_of(output).keys() == before.keys() - {"train/.00000-of-00001.array_record.npz.tmp"}
    assert not (output / "train" / ".writing-a").exists()


def test_images_in_the_output_are_refused(photos, prepare):
    output, _ = prepare(photos)
    before = files_of(output)
    for images in (output / "train", output / "tars-*.tar"):
        with pytest.raises(UserError, match=r"--images=\S* is in --output=\S*, which may be removed"):
            prepare(images, "--overwrite")
    assert files_of(output) == before


def test_images_that_are_not_there_are_refused(photos, prepare, tmp_path, write_tar):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("...")
    for images, message in (
        (tmp_path / "none", "does not exist: give a folder of images, tars or Parquet files"),
        (tmp_path / "notes.txt", "is no folder, tar or Parquet file"),
        (tmp_path / "empty", "no images in"),
        (tmp_path / "*.tar", "no tar or Parquet file is named"),
        ("tfds:", "give tfds:NAME"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(images)
    with pytest.raises(UserError, match="--label_column=kind is for Parquet files and tars"):
        prepare(photos, "--label_column=kind")
    with pytest.raises(UserError, match="has no images"):
        prepare(write_tar("a.tar", [{"txt": b"nothing"}]))
    (tmp_path / "tars" / "b.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="b.tar cannot be read"):
        prepare(tmp_path / "tars" / "b.tar")
    write_image(tmp_path / "tars" / "0.jpg")
    with pytest.raises(UserError, match="has images and files such as a.tar: name the ones that you mean"):
        prepare(tmp_path / "tars")
    with pytest.raises(UserError, match="--beam_options=--project=P is for --runner"):
        prepare(photos, "--beam_options=--project=P")
    assert not (tmp_path / "records").exists()


def test_a_missing_extra_is_one_line(photos, prepare, monkeypatch):
    real = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "array_record" else real(name))
    with pytest.raises(
        UserError, match=r"needs array_record, which is not installed: pip install 'simclr_jax\[records\]'"
    ):
        prepare(photos)


def test_missing_or_torn_files_are_refused_when_they_are_opened(photos, prepare):
    output, _ = prepare(photos, "--shard_images=4")
    path = output / "train" / "00001-of-00002.array_record"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="00001-of-00002.array_record is damaged: the command of"):
        opened(output)
    path.unlink()
    with pytest.raises(UserError, match="00001-of-00002.array_record is missing"):
        opened(output)
    path.write_bytes(content)
    (output / "train" / "index.npz").write_bytes(b"PK torn")
    with pytest.raises(UserError, match=r"index.npz cannot be read .* writes it again with --overwrite"):
        opened(output)
    prepare(photos, "--shard_images=4", "--overwrite")  # as the message says
    assert opened(output).num_examples == 7
    (output / "records.json").write_text('{"version": 1, "spl')
    for command in (opened, lambda _: prepare(photos, "--shard_images=4")):
        with pytest.raises(
            UserError, match=r"records.json is damaged .*: the command of simclr_jax.prepare that wrote .* --overwrite"
        ):
            command(output)
    (output / "records.json").write_text("{}")
    with pytest.raises(UserError, match="records.json is damaged .it has no 'version'."):
        opened(output)
    prepare(photos, "--shard_images=4", "--overwrite")
    assert opened(output).num_examples == 7
    with pytest.raises(UserError, match="has no records.json: give a folder that simclr_jax.prepare has written"):
        opened(photos)
    data = config_lib.pretrain().data
    data.update(source="records")
    with pytest.raises(UserError, match="config.data.root is not set: give the --output of simclr_jax.prepare"):
        sources.open_source(data, "train")
