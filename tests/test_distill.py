"""Distillation: the student comes to agree with its teacher, without a label."""

import json
import shutil

from etils import epath
from helpers import REPOSITORY
import pytest

from simclr_jax import errors
from simclr_jax.runtime import cli
from simclr_jax.workdir import metrics_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_repository")]


@pytest.fixture(scope="module")
def teacher(once, digits_run):
    """The workdir of a fine-tuning, and its accuracy."""

    def make(folder):
        cli.call(
            "finetune",
            f"--config={REPOSITORY}/configs/digits_finetune.py:0.5,steps=100",
            f"--pretrained={digits_run}",
            f"--workdir={folder}",
            "--config.features=g1",
            "--config.label_seeds=0,",
        )

    folder = once("teacher", make)
    return folder, json.loads((folder / "results.json").read_text())["top1"]


def call(workdir, teacher, *arguments):
    return cli.call(
        "distill",
        f"--workdir={workdir}",
        "--config=configs/distill.py:batch=64,epochs=6",
        f"--config.teacher={teacher}",
        "--config.optimizer.name=sgd",
        "--config.optimizer.learning_rate=0.4",
        "--config.optimizer.warmup_epochs=0",
        "--config.optimizer.weight_decay=0",
        "--config.log_every_steps=10",
        *arguments,
    )


def test_a_student_learns_its_teachers_answers_without_labels(tmp_path, teacher):
    folder, accuracy = teacher
    results = call(tmp_path, folder, "--config.init=random")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["teacher_top1"] == pytest.approx(accuracy)
    lines = metrics_file.read(epath.Path(tmp_path / "metrics.jsonl"))
    agreement = [line["teacher_agreement"] for line in lines]
    assert agreement[-1] > max(0.4, agreement[0] + 0.2)
    assert results["top1"] > 0.4
    # Started again it is finished already.
    assert call(tmp_path, folder, "--config.init=random")["top1"] == results["top1"]


def test_self_training_starts_from_the_pretrained_encoder(tmp_path, teacher, digits_run):
    folder, _ = teacher
    results = call(tmp_path / "self", folder, f"--pretrained={digits_run}", "--config.epochs=0.1")
    assert (results["init"], results["step"]) == ("pretrained", 3)


def test_mistakes_are_told(tmp_path, digits_run):
    with pytest.raises(errors.UserError, match=r"config\.teacher is not set"):
        cli.call("distill", f"--workdir={tmp_path}", "--config.init=random")
    with pytest.raises(errors.UserError, match=r"--config\.teacher='/nowhere' does not exist"):
        cli.call("distill", f"--workdir={tmp_path}", "--config.init=random", "--config.teacher=/nowhere")
    with pytest.raises(errors.UserError, match="is of a pretraining run. Fine-tune that first"):
        cli.call("distill", f"--workdir={tmp_path}", "--config.init=random", f"--config.teacher={digits_run}")
    for draw in (0, 1):
        (tmp_path / "tuned" / f"draw_{draw}").mkdir(parents=True)
    with pytest.raises(errors.UserError, match="several draws: choose one of draw_0, draw_1"):
        cli.call("distill", f"--workdir={tmp_path}", "--config.init=random", f"--config.teacher={tmp_path}/tuned")


def test_a_teacher_of_other_classes_is_named(tmp_path, teacher, image_folder, caplog):
    folder, _ = teacher
    images = ("--config.init=random", "--config.data.source=folder", f"--config.data.root={image_folder}")
    with pytest.raises(
        errors.UserError, match=r"has the classes 0, 1, .*, 9, but .*test has 3, cat, dog, owl: a student"
    ):
        call(tmp_path, folder, *images)
    assert not (tmp_path / "checkpoints").exists()
    for split in ("train", "test"):
        for number in range(7):
            shutil.copytree(image_folder / split / "owl", image_folder / split / f"owl_{number}")
    caplog.set_level("WARNING", "simclr_jax")
    call(tmp_path, folder, *images, "--config.epochs=0.1")
    assert "test has 10, cat, dog, owl, owl_0, " in caplog.text
    assert "they are taken to be the same, in this order" in caplog.text


def test_the_only_draw_of_a_run_is_taken(tmp_path, teacher):
    folder, accuracy = teacher
    stored = (f"--pretrained={folder}", "--config.protocol=stored")
    results = cli.call("linear_probe", f"--workdir={tmp_path}", *stored)
    assert results["top1"] == pytest.approx(accuracy)
    with pytest.raises(errors.UserError, match="is the pretraining run's own"):
        cli.call("linear_probe", f"--workdir={folder}", *stored)
