"""The pretraining binary as a user starts it: interruptions of every kind, mistakes, what it leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from compile_flags import COMPILE_FLAGS
from etils import epath
from helpers import REPOSITORY
from helpers import TINY
from helpers import last_step
from helpers import outcome
from helpers import write_image
import jax
import numpy as np
import pytest

from simclr_jax import errors
from simclr_jax.runtime import cli
from simclr_jax.training import steps
from simclr_jax.workdir import metrics_file

pytestmark = pytest.mark.slow


def start(workdir, *arguments):
    """The binary in a process of its own, on one device."""
    command = [sys.executable, "-m", "simclr_jax.pretrain", *TINY, f"--workdir={workdir}", *arguments]
    environment = os.environ | {"XLA_FLAGS": COMPILE_FLAGS, "JAX_PLATFORMS": "cpu"}
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def log_of(workdir):
    return (workdir.parent / f"{workdir.name}.log").read_text()


def wait_for_step(process, workdir, step):
    deadline = time.monotonic() + 300
    while last_step(workdir) < step:
        assert process.poll() is None, f"ended early:\n{log_of(workdir)}"
        assert time.monotonic() < deadline, log_of(workdir)
        time.sleep(0.01)


@pytest.mark.heavy
def test_interrupted_equals_uninterrupted(tmp_path):
    """Killed twice with -9 while it trains and saves, then asked to stop, then finished: bit for bit the same."""
    settings = ("--config.epochs=3.0", "--config.checkpoint.every_steps=3")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, *settings).wait(timeout=600) == 0, log_of(whole)
    expected_lines, total, expected_arrays = outcome(whole)
    assert len(expected_lines) == total == 68

    for step in (11, 25):
        process = start(broken, *settings)
        wait_for_step(process, broken, step)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert last_step(broken) < total

    process = start(broken, *settings)
    wait_for_step(process, broken, 40)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    assert process.wait(timeout=120) == errors.EXIT_PREEMPTED, log_of(broken)
    assert time.monotonic() - sent < 60
    stopped_at = max(int(path.name) for path in (broken / "checkpoints").iterdir())
    assert 40 <= stopped_at < total
    assert f"saved step {stopped_at} of {total}; the same command continues" in log_of(broken)

    assert start(broken, *settings).wait(timeout=600) == 0, log_of(broken)
    assert f"from step {stopped_at}" in log_of(broken)
    lines, step, arrays = outcome(broken)
    assert lines == expected_lines
    assert step == total
    jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)

    def comparable(workdir):
        results = json.loads((workdir / "results.json").read_text())
        return {key: value for key, value in results.items() if key not in ("seconds", "checkpoint")}

    assert comparable(broken) == comparable(whole)


@pytest.mark.heavy
def test_a_process_ends_with_a_message_and_a_code(tmp_path):
    """No traceback, and the exit codes that a launcher goes by."""
    process = start(tmp_path / "a", "--config.loss.temprature=0.1")
    assert process.wait(timeout=120) == errors.EXIT_USER_ERROR
    text = log_of(tmp_path / "a")
    assert "did you mean 'loss.temperature'" in text
    assert "Traceback" not in text
    process = start(tmp_path / "b", "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30")
    assert process.wait(timeout=300) == errors.EXIT_NON_FINITE
    assert "error: " in log_of(tmp_path / "b")


def call(workdir, *arguments):
    return cli.call("pretrain", *TINY, f"--workdir={workdir}", *arguments)


@pytest.mark.heavy
@pytest.mark.usefixtures("at_repository")
@pytest.mark.parametrize("where", ["--config.data.resident", "--config.augment.where=device"])
def test_with_augmentation_on_the_device_a_run_continues_exactly(tmp_path, where):
    settings = (where, "--config.epochs=0.6", "--config.checkpoint.every_steps=4", "--config.checkpoint.keep=9")
    whole, continued = tmp_path / "whole", tmp_path / "continued"
    call(whole, *settings)
    shutil.copytree(whole, continued)
    for step in ("12", "14"):
        shutil.rmtree(continued / "checkpoints" / step)
    (continued / "results.json").unlink()
    call(continued, *settings)
    lines, step, arrays = outcome(continued)
    expected_lines, total, expected_arrays = outcome(whole)
    assert (step, lines) == (total, expected_lines)
    assert total == 14
    jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)
    assert len({line["loss"] for line in lines}) == total


@pytest.mark.usefixtures("at_repository")
def test_a_run_leaves_all_that_is_promised(tmp_path):
    results = call(tmp_path, "--config.epochs=0.4", "--config.checkpoint.every_steps=4")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "config.json",
        "curves.png",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "tensorboard",
        "views.png",
    }
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert {"top1", "top5", "n", "seconds", "step"} <= results.keys()
    assert (results["n"], results["step"]) == (360, 9)
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 64
    steps = [line["step"] for line in metrics_file.read(epath.Path(tmp_path / "metrics.jsonl"))]
    assert steps == list(range(1, 10))
    # A finished run is not trained again, and says the same.
    again = call(tmp_path, "--config.epochs=0.4", "--config.checkpoint.every_steps=4")
    assert again["top1"] == results["top1"]
    # Nor without its metrics, whose last line has the loss.
    (tmp_path / "metrics.jsonl").rename(tmp_path / "aside")
    again = call(tmp_path, "--config.epochs=0.4", "--config.checkpoint.every_steps=4")
    assert (again["loss"], again["top1"]) == (results["loss"], results["top1"])
    # Continued with another config it is refused, and nothing of it is touched.
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(errors.UserError, match=r"config.loss.temperature is 0.3, but that run has 0.5"):
        call(tmp_path, "--config.epochs=0.4", "--config.loss.temperature=0.3")
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.usefixtures("at_repository")
def test_a_non_finite_loss_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    make_step = steps.make_pretrain_step

    def make_failing_step(*args):
        step = make_step(*args)

        def failing(state, batch):
            number = int(state.step)
            state, values = step(state, batch)
            added = jax.device_put(np.float32("nan" if number == 6 else 0), values["loss"].sharding)
            return state, values | {"loss": values["loss"] + added}

        failing.lower = step.lower  # for the check of the memory
        return failing

    monkeypatch.setattr(steps, "make_pretrain_step", make_failing_step)
    with pytest.raises(errors.NonFiniteLoss, match=r"loss is nan in step 7; the checkpoint of step 5 is kept"):
        call(tmp_path, "--config.epochs=0.5", "--config.checkpoint.every_steps=5", "--config.log_every_steps=4")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]


@pytest.mark.usefixtures("at_repository")
def test_any_folder_without_labels_can_be_pretrained_on(tmp_path):
    for number in range(20):
        write_image(tmp_path / "photos" / f"{number % 3}" / f"{number}.jpg", seed=number)
    (tmp_path / "photos" / "0" / "broken.jpg").write_bytes(b"")
    results = cli.call(
        "pretrain",
        f"--config=configs/folder.py:{tmp_path / 'photos'},size=16,depth=10,width=0.125,batch=16,epochs=3",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.max_bad_fraction=0.1",
    )
    assert results["top1"] is None
    assert results["bad_images"] == 1
    assert results["step"] == 21 * 3 // 16 + 1


@pytest.mark.usefixtures("at_repository")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.batch_size=2048",), "batch_size is 2048, but digits, split train has only 1437 images"),
        (("--config.batch_size=100",), "8 devices cannot share equally: take 96 or 104"),
        (("--config.data.source=folder", "--config.data.root=/nowhere"), "'/nowhere' does not exist"),
        (("--config.data.source=folder",), "config.data.root is not set"),
        (("--config.optimizer.warmup_epochs=70.0",), "warm up for fewer"),
        (("--config.modle.depth=34",), "did you mean 'model.depth'"),
        (("--config.model.depth=abc",), "--config.model.depth=abc: should be of type int"),
        (("--cfg=x",), "unknown flag --cfg"),
        (("digits",), "unknown argument 'digits'"),
        (("--config=configs/digit.py",), "no such file"),
        (("--config=configs/digits.py:epoch=3",), "no argument 'epoch' .did you mean 'epochs'"),
        (("--workdir=",), "--workdir is missing"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path, arguments, message):
    with pytest.raises(errors.UserError, match=message):
        call(tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_prints_its_own_lines_only(tmp_path):
    """No warning of TensorFlow, absl or XLA."""
    workdir = tmp_path / "run"
    assert start(workdir, "--config.epochs=0.2").wait(timeout=300) == 0, log_of(workdir)
    lines = log_of(workdir).splitlines()
    assert "Pretraining a ResNet-10" in lines[0]
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d \S", line)] == []
