"""A run is continued with the data that it was begun with, or says so: pretraining and fine-tuning."""

import json
import shutil

from helpers import TINY
from helpers import write_image
import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_repository")]


NO_BLUR = ("--config.augment.blur_prob=0", "--config.optimizer.warmup_epochs=0")


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            for number in range(count):
                write_image(tmp_path / "photos" / split / name / f"{number}.png", seed=2 * number + (name == "cat"))
    return tmp_path / "photos"


def pretrain(photos, workdir, *words):
    fields = (
        "--config=configs/folder.py",
        f"--config.data.root={photos}",
        "--config.batch_size=8",
        "--config.epochs=2",
    )
    return cli.call("pretrain", *fields, *TINY[1:4], *NO_BLUR, f"--workdir={workdir}", *words)


def finetune(photos, pretrained, workdir, *words):
    fields = ("--config.min_steps=2", "--config.epochs=1", "--config.lbfgs.l2_values=1")
    fields += ("--config.learning_rates=0.001", "--config.optimizer.learning_rate=0.001")
    return cli.call(
        *("finetune", f"--pretrained={pretrained}", f"--config.data.root={photos}", f"--workdir={workdir}"),
        *fields,
        *words,
    )


def test_a_grown_folder_is_refused_even_when_the_run_is_finished(photos, tmp_path):
    first = pretrain(photos, tmp_path / "run")
    assert first["data"]["training images"]["images"] == 24
    again = pretrain(photos, tmp_path / "run")
    assert {key: again[key] for key in ("loss", "top1", "step", "data")} == {
        key: first[key] for key in ("loss", "top1", "step", "data")
    }
    write_image(photos / "train" / "cat" / "new.png")
    with pytest.raises(
        UserError, match="training images: 24 images are now 25, the images have other names, the labels"
    ):
        pretrain(photos, tmp_path / "run")
    accepted = pretrain(photos, tmp_path / "run", "--accept_new_data")
    assert accepted["data"]["before"][0]["training images"]["images"] == 24
    assert json.loads((tmp_path / "run" / "results.json").read_text())["data"] == accepted["data"]


def test_fine_tuning_is_refused_on_other_labels_and_on_another_encoder(photos, tmp_path):
    pretrain(photos, tmp_path / "run")
    first = finetune(photos, tmp_path / "run", tmp_path / "tuned")
    assert first["data"]["encoder"]["weights"]
    assert finetune(photos, tmp_path / "run", tmp_path / "tuned")["top1"] == first["top1"]
    other = shutil.copytree(photos, tmp_path / "other")
    for name in ("cat", "dog"):
        (other / "train" / name / "0.png").rename(tmp_path / f"{name}.png")
    (tmp_path / "cat.png").rename(other / "train" / "dog" / "0.png")
    (tmp_path / "dog.png").rename(other / "train" / "cat" / "0.png")
    shutil.move(photos, tmp_path / "aside")
    shutil.move(other, photos)
    with pytest.raises(
        UserError, match="tuned is a run on other data: training images: the contents of the images differ"
    ):
        finetune(photos, tmp_path / "run", tmp_path / "tuned")
    shutil.rmtree(photos)
    shutil.move(tmp_path / "aside", photos)
    shutil.rmtree(tmp_path / "run")
    pretrain(photos, tmp_path / "run", "--config.seed=1")
    with pytest.raises(UserError, match="tuned is a run on other data: encoder: it has other weights"):
        finetune(photos, tmp_path / "run", tmp_path / "tuned")
    accepted = finetune(photos, tmp_path / "run", tmp_path / "tuned", "--accept_new_data")
    assert accepted["data"]["before"][0]["differed"] == ["encoder: it has other weights"]
