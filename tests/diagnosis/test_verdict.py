"""The command: an examination of a tiny run and of images that it has not seen, and what it refuses."""

import json
import math
import shutil

from etils import epath
from helpers import write_image
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from configs import digits
from simclr_jax import verdict as verdict_lib
from simclr_jax.augment import family
from simclr_jax.data import sources
from simclr_jax.diagnosis import augmentations
from simclr_jax.diagnosis import measures
from simclr_jax.diagnosis.representations import Images
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli


def images_of(count, size=8):
    data = digits.get_config().data
    data.image_size = size
    return Images(sources.open_source(data, "train"), count, data, 16)


def test_all_views_are_of_the_same_images_in_the_same_order():
    images = images_of(40)
    whole = np.concatenate(list(images.views(measures.changed({}), 1)))
    assert whole.shape == (40, 1, 8, 8, 3)
    assert len(np.unique(whole, axis=0)) > 35
    flipped = np.concatenate(list(images.views(measures.changed({"flip_prob": 1.0}), 2)))
    np.testing.assert_array_equal(flipped[:, 0], whole[:, 0, :, ::-1])
    np.testing.assert_array_equal(flipped[:, 1], flipped[:, 0])


def test_operations_on_images_that_are_read_are_those_of_the_pipeline():
    images = images_of(32)
    whole = np.concatenate(list(images.views(measures.changed({}), 1)))[:, 0]
    fields = measures.changed({"jitter_prob": 1.0, "noise_prob": 1.0, "strength": 0.5})
    from_pipeline = np.concatenate(list(images.views(fields, 1)))[:, 0]
    applied = augmentations._applied(whole, fields)
    # The pipeline does not round the resized image before the operations.
    assert np.abs(applied.astype(int) - from_pipeline).max() <= 3


def test_rows_are_the_operations_of_the_run_and_then_all_that_change_something():
    augment = ConfigDict(digits.get_config().augment)
    rows = list(augmentations.settings(augment, side=16))
    assert [op for op, strength, _ in rows if strength == augmentations.IN_THE_RUN] == ["crop", "jitter", "grayscale"]
    ops = {op for op, _, _ in rows}
    assert ops == {"crop", *(op.name for op in family.OPS), *family.JITTER_OPS} - {"blur"}  # no blur below 20 px
    assert "blur" in {op for op, _, _ in augmentations.settings(augment, side=32)}


@pytest.mark.heavy
def test_the_verdict_of_a_run(tmp_path, digits_run, capsys):
    shutil.copytree(digits_run, tmp_path / "run")
    command = ("verdict", f"--pretrained={tmp_path}/run", "--count=60", "--op_images=20", "--batch_size=30")
    verdict = cli.call(*command)
    assert json.loads((tmp_path / "run" / "verdict.json").read_text()) == verdict
    assert 0 <= verdict["score"] <= 1
    numbers = [value for of in verdict["measures"].values() for value in of.values()]
    assert all(math.isfinite(value) for value in numbers)
    # Nine steps teach nothing: hardly better than guessing, and not collapsed.
    assert 0.8 < verdict["measures"]["untrained"]["loss_share_z"] < 1.2
    about = [statement["about"] for statement in verdict["statements"]]
    assert about[:4] == ["learned", "collapsed", "colour shortcut", "still improving"]
    assert verdict["checkpoints"][-1] == {"step": verdict["step"], "score": verdict["score"]}
    printed = capsys.readouterr().out
    assert all(statement["text"] in printed for statement in verdict["statements"])
    for name in ("similar_pairs.png", "clusters.png"):
        with Image.open(tmp_path / "run" / name) as picture:
            assert min(picture.size) > 200
    again = cli.call(*command, "--images=digits:test", f"--workdir={tmp_path}/other")
    assert (tmp_path / "other" / "verdict.json").exists()
    assert again["images"] == {"name": "digits, split test", "count": 60}
    assert again["measures"] != verdict["measures"]


def test_a_verdict_on_another_run_or_other_images_is_kept(tmp_path):
    folder, images = epath.Path(tmp_path), {"name": "digits", "count": 60}
    of_run = folder / "run"
    verdict_lib._check_earlier(folder, of_run, images)
    (folder / "verdict.json").write_text(json.dumps({"pretrained": f"{of_run}/checkpoints/9", "images": images}))
    verdict_lib._check_earlier(folder, of_run, images)
    with pytest.raises(UserError, match="verdict.json is of another run, .*run: remove it, or take another --workdir"):
        verdict_lib._check_earlier(folder, folder / "other", images)
    with pytest.raises(UserError, match="verdict.json is on .*60.*, not on .*70.*: remove it"):
        verdict_lib._check_earlier(folder, of_run, images | {"count": 70})


@pytest.mark.slow
def test_what_the_verdict_refuses(tmp_path, digits_run):
    with pytest.raises(UserError, match="does not exist"):
        cli.call("verdict", f"--pretrained={tmp_path}/nothing")
    with pytest.raises(UserError, match="--pretrained is missing"):
        cli.call("verdict")
    shutil.copytree(digits_run, tmp_path / "run")
    with pytest.raises(UserError, match="at least 20"):
        cli.call("verdict", f"--pretrained={tmp_path}/run", "--count=5")
    for number in range(25):
        write_image(tmp_path / "copies" / f"{number}.png", seed=0)
    with pytest.raises(UserError, match="all 25 images of .*copies are the same: the verdict needs different ones"):
        cli.call("verdict", f"--pretrained={tmp_path}/run", f"--images={tmp_path}/copies")
    (tmp_path / "run" / "checkpoints" / "9").rename(tmp_path / "alone")
    with pytest.raises(UserError, match="--workdir is missing"):
        cli.call("verdict", f"--pretrained={tmp_path}/alone")
