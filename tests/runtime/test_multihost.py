"""Several real processes over real sockets: the same numbers, one stop for all, restarts, and mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

from compile_flags import COMPILE_FLAGS
from helpers import REPOSITORY
from helpers import TINY
from helpers import last_step
from helpers import outcome
import jax
import numpy as np
import pytest

from simclr_jax import errors
from simclr_jax.runtime import cli

# A learning rate at which rounding hardly grows: at the usual one, the order of sums alone makes 6 % of a gradient's norm
# after 18 steps.
SETTINGS = (
    *("--config.epochs=0.8", "--config.checkpoint.every_steps=4", "--hang_timeout=120"),
    "--config.optimizer.learning_rate=0.02",
)
STEPS = 18


def launch(workdir, processes, devices, *arguments, module="simclr_jax.pretrain", config=TINY, launcher=()):
    """A job of several processes, each with some devices, through launch.local."""
    command = [sys.executable, "-m", "launch.local", f"--num_processes={processes}", f"--devices_per_process={devices}"]
    command += [*launcher, "--", sys.executable, "-m", module, *config, f"--workdir={workdir}", *arguments]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)


def log_of(workdir):
    return (workdir.parent / f"{workdir.name}.log").read_text()


def pids_of(workdir):
    """Of the processes of the newest start of the job."""
    return [int(pid) for pid in re.findall(r"process ids (.*)", log_of(workdir))[-1].split(", ")]


def wait_for_step(job, workdir, step):
    deadline = time.monotonic() + 300
    while last_step(workdir) < step:
        assert job.poll() is None, f"ended early:\n{log_of(workdir)}"
        assert time.monotonic() < deadline, log_of(workdir)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """An undisturbed run of 2 processes with 2 devices each."""
    workdir = tmp_path_factory.mktemp("multihost") / "two_by_two"
    assert launch(workdir, 2, 2, *SETTINGS).wait(timeout=600) == 0, log_of(workdir)
    return workdir


def assert_close(some, others):
    """Equal but for the order of sums: float32 rounding."""
    tolerance = 1e-4
    some_lines, some_step, some_arrays = outcome(some)
    other_lines, other_step, other_arrays = outcome(others)
    assert some_step == other_step == len(some_lines) == len(other_lines) == STEPS
    for one, other in zip(some_lines, other_lines, strict=True):
        for key in ("loss", "classifier_loss", "contrastive_entropy", "grad_norm"):
            np.testing.assert_allclose(one[key], other[key], rtol=tolerance, err_msg=f"{key}, step {one['step']}")
    for part in ("encoder", "head", "classifier"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(a).max())),
            some_arrays[part],
            other_arrays[part],
        )


@pytest.mark.heavy
def test_two_processes_train_as_one_does(two_by_two, tmp_path):
    one = tmp_path / "one"
    assert launch(one, 1, 4, *SETTINGS).wait(timeout=600) == 0, log_of(one)
    assert_close(two_by_two, one)
    results, single = (json.loads((w / "results.json").read_text()) for w in (two_by_two, one))
    assert results["n"] == single["n"] == 360
    # Written once, and by one process only.
    assert {path.name for path in two_by_two.iterdir()} == {path.name for path in one.iterdir()}
    # One file of metrics, and one of pictures.
    assert len(list((two_by_two / "tensorboard").iterdir())) == 2


@pytest.mark.heavy
def test_two_processes_embed_as_one_does(two_by_two, tmp_path):
    words = (f"--pretrained={two_by_two}", "--images=digits:test", "--batch_size=64")
    embed = (sys.executable, "-m", "simclr_jax.embed", *words, f"--output={tmp_path}/two.npz")
    local = ("-m", "launch.local", "--num_processes=2", "--devices_per_process=1", "--max_restarts=0", "--")
    subprocess.run([sys.executable, *local, *embed], cwd=REPOSITORY, check=True)
    cli.call("embed", *words, f"--output={tmp_path}/one.npz")
    one, two = (np.load(tmp_path / name) for name in ("one.npz", "two.npz"))
    place = {path: row for row, path in enumerate(two["path"])}
    assert len(place) == len(one["path"]) == 360
    rows = [place[path] for path in one["path"]]
    assert one["label"].tolist() == two["label"][rows].tolist()
    np.testing.assert_allclose(two["vector"][rows], one["vector"], rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


@pytest.mark.heavy
def test_a_stop_of_one_process_saves_all_and_any_number_of_devices_continues(two_by_two, tmp_path):
    stopped = tmp_path / "stopped"
    job = launch(stopped, 2, 2, *SETTINGS, launcher=["--max_restarts=0"])
    wait_for_step(job, stopped, 5)
    # Only one process is told, then the launcher, which is not to start it again.
    os.kill(pids_of(stopped)[1], signal.SIGTERM)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=180) == errors.EXIT_PREEMPTED, log_of(stopped)
    messages = re.findall(r"(\[1\] )?error: asked to stop: saved step (\d+) of 18", log_of(stopped))
    assert [prefix for prefix, _ in sorted(messages)] == ["", "[1] "], log_of(stopped)
    (step,) = {int(step) for _, step in messages}
    assert 5 <= step < STEPS
    assert max(int(path.name) for path in (stopped / "checkpoints").iterdir()) == step

    assert launch(stopped, 1, 2, *SETTINGS).wait(timeout=600) == 0, log_of(stopped)
    assert f"on 2 cpu device(s), from step {step}" in log_of(stopped)
    assert_close(stopped, two_by_two)


@pytest.mark.heavy
def test_a_killed_process_ends_the_job_and_the_launcher_resumes_it_exactly(two_by_two, tmp_path):
    killed = tmp_path / "killed"
    job = launch(killed, 2, 2, *SETTINGS)
    wait_for_step(job, killed, 7)
    os.kill(pids_of(killed)[1], signal.SIGKILL)
    assert job.wait(timeout=600) == 0, log_of(killed)
    assert "started again (failures: 1)" in log_of(killed)
    assert re.search(r"from step \d+", log_of(killed))
    lines, step, arrays = outcome(killed)
    expected_lines, expected_step, expected_arrays = outcome(two_by_two)
    assert lines == expected_lines
    assert step == expected_step
    jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)


@pytest.mark.heavy
def test_an_evaluation_by_two_processes_counts_every_example_once(two_by_two, tmp_path):
    results = []
    for processes in (1, 2):
        workdir = tmp_path / f"knn{processes}"
        arguments = (f"--pretrained={two_by_two}", "--config.map_points=20", "--config.label_fraction=0.5")
        job = launch(workdir, processes, 4 // processes, *arguments, module="simclr_jax.knn", config=())
        assert job.wait(timeout=300) == 0, log_of(workdir)
        results.append(json.loads((workdir / "results.json").read_text()))
        assert (workdir / "embedding_map.png").exists()
        assert (
            len(json.loads((workdir / "draw_0" / "labels.json").read_text())["examples"])
            == results[0]["draws"][0]["labels"]
        )
    one, two = results
    assert one["n"] == two["n"] == 360
    assert abs(one["top1"] - two["top1"]) <= 2 / 360  # a tie may be broken by rounding


def direct(workdir, *arguments):
    command = [sys.executable, "-m", "simclr_jax.pretrain", *TINY, f"--workdir={workdir}", *arguments]
    environment = os.environ | {"XLA_FLAGS": COMPILE_FLAGS}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.heavy
def test_a_wrong_coordinator_is_told_within_the_timeout(tmp_path):
    common = ("--num_processes=2", "--initialization_timeout=4")
    unreachable = direct(tmp_path, "--coordinator_address=localhost:9", "--process_id=1", *common)
    unknown = direct(tmp_path, "--coordinator_address=nowhere.invalid:1234", "--process_id=1", *common)
    alone = direct(tmp_path, "--coordinator_address=localhost:23581", "--process_id=0", *common)
    began = time.monotonic()
    for process, message in (
        (unreachable, r"cannot reach the coordinator at localhost:9 within 4 s: nothing answers there"),
        (unknown, r"this machine does not know the host name 'nowhere.invalid'"),
        (alone, r"not all of the 2 processes connected within 4 s. Are all started"),
    ):
        text, _ = process.communicate(timeout=120)
        assert process.returncode == errors.EXIT_UNAVAILABLE, text
        assert re.search(message, text), text
        assert "Check failure" not in text
    assert time.monotonic() - began < 100  # three interpreters start meanwhile


@pytest.mark.heavy
def test_processes_that_were_started_differently_are_refused(tmp_path):
    common = ("--num_processes=2", "--coordinator_address=localhost:23583")
    processes = [
        direct(tmp_path / "run", "--process_id=0", *common),
        direct(tmp_path / "run", "--process_id=1", "--config.loss.temperature=0.2", *common),
    ]
    for process in processes:
        text, _ = process.communicate(timeout=180)
        assert process.returncode == errors.EXIT_USER_ERROR, text
        assert "the processes [1] have another config than process 0" in text
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.heavy
def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    common = ("--num_processes=2", "--coordinator_address=localhost:23585")
    here, there = (direct(tmp_path / f"disk{n}" / "run", f"--process_id={n}", *common) for n in (0, 1))
    text, _ = there.communicate(timeout=300)
    assert there.returncode == errors.EXIT_USER_ERROR, text
    assert "is not shared: process 1 does not see what process 0 has written there" in text
    here.kill()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("h:1", 2, None), {}, r"--process_id \(or JAX_PROCESS_ID\) is missing"),
        ((None, None, None), {"JAX_NUM_PROCESSES": "2"}, r"--coordinator_address .* and --process_id .* is missing"),
        (("h:1", 2, 2), {}, "--process_id is 2, but must be from 0 to 1"),
        (("h", 2, 0), {}, "--coordinator_address is 'h', but must be HOST:PORT"),
        (("h:99999", 2, 0), {}, "must be HOST:PORT"),
        (("h:1", None, 0), {"JAX_NUM_PROCESSES": "two"}, "--num_processes is 'two', but must be a whole number"),
    ],
)
def test_incomplete_settings_are_refused(arguments, variables, message, monkeypatch):
    from simclr_jax.runtime import distributed

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.UserError, match=message):
        distributed.initialize(*arguments)
