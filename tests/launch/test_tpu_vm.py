"""The TPU-VM launcher against a stand-in for gcloud whose workers are processes of this machine."""

import importlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tarfile
import time

from compile_flags import COMPILE_FLAGS
from helpers import REPOSITORY
import pytest

from launch import sweep_backends
from launch import tpu_slice
from launch import tpu_vm
from simclr_jax import errors

HERE = pathlib.Path(__file__).parent
SLICE = ("--name=test", "--zone=nowhere1-a", "--poll_seconds=0.1")
NEW = ("--type=v5litepod-16", "--spot", "--queued", "--setup_command=test -f setup.py")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The stand-in's folder; it is first on PATH."""
    root = tmp_path / "cloud"
    (root / "bin").mkdir(parents=True)
    program = root / "bin" / "gcloud"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "stand_in_gcloud.py"} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(root))
    monkeypatch.setenv("STAND_IN_WORKERS", "2")
    monkeypatch.setattr(tpu_slice, "pack", small_pack)
    monkeypatch.syspath_prepend(str(HERE))
    yield root
    if (root / "workers").exists():
        importlib.reload(importlib.import_module("stand_in_gcloud")).kill_jobs()


def small_pack(archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(REPOSITORY / "setup.py", "setup.py")


def calls(cloud, *words):
    lines = (cloud / "calls").read_text().splitlines()
    return [line for line in lines if all(word in line for word in words)]


def run(verb, *arguments, command=()):
    return tpu_vm.run(["tpu_vm", verb, *SLICE, *arguments, *(["--", *command] if command else [])])


def script(text):
    return ["bash", "-c", text]


def test_a_job_from_nothing_to_its_exit_code(cloud, capfd):
    run("create", *NEW)
    assert capfd.readouterr().out.count("WAITING_FOR_RESOURCES") == 1
    run("setup", *NEW)
    command = script('echo "greeting: $GREETING from $JAX_PROCESS_ID of $JAX_NUM_PROCESSES"')
    assert run("run", "--env=GREETING=a b", command=command) == 0
    capfd.readouterr()
    run("logs", "--worker=1")
    assert "greeting: a b from 1 of 2" in capfd.readouterr().out
    run("status")
    assert "test: READY; exit codes of the workers: [0, 0]" in capfd.readouterr().out
    run("delete", "--queued")
    assert not (cloud / "state").exists()
    run("status")
    assert "NOT_FOUND; exit codes of the workers: no job" in capfd.readouterr().out


@pytest.mark.parametrize("code", [2, 3, 75, 1])
def test_the_jobs_exit_code_is_the_launchers(cloud, code):
    run("create", "--type=v5litepod-16")
    run("setup", *NEW)
    # The other worker's code is a consequence.
    assert (
        run("run", command=script(f"[ $JAX_PROCESS_ID = 1 ] && exit {code}; exit {75 if code == 75 else 134}")) == code
    )


def test_stop_lets_the_job_save(cloud, capfd):
    run("create", "--type=v5litepod-16")
    run("setup", *NEW)
    saves = (
        "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    )
    assert run("run", "--detach", command=["python", "-c", saves]) == 0
    wait_until(lambda: all("up" in log for log in logs_of(cloud)))
    with pytest.raises(errors.UserError, match="is running there"):
        run("run", command=["true"])
    run("stop")
    wait_until(lambda: len(list(cloud.glob("workers/*/simclr_jobs/job.exit"))) == 2)
    capfd.readouterr()
    run("status")
    assert "[75, 75]" in capfd.readouterr().out


def logs_of(cloud):
    logs = [path.read_text() for path in cloud.glob("workers/*/simclr_jobs/job.log")]
    return logs if len(logs) == 2 else [""]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_babysit_starts_again_what_may_succeed(cloud, tmp_path):
    """Asked to stop once, failed once, then done; the slice it made is deleted."""
    codes = f"d={tmp_path}/$JAX_PROCESS_ID; echo x >> $d; n=$(wc -l < $d); [ $n = 1 ] && exit 75; [ $n = 2 ] && exit 1; true"
    assert run("babysit", *NEW, "--max_failures=1", command=script(codes)) == 0
    assert (tmp_path / "0").read_text().count("x") == 3
    assert len(calls(cloud, "queued-resources create", "--spot")) == 1
    assert len(calls(cloud, "scp")) == 1
    assert not (cloud / "state").exists()


def test_babysit_gives_up(cloud):
    run("create", "--type=v5litepod-16")
    assert run("babysit", *NEW, "--max_failures=2", command=["false"]) == 1
    assert len(calls(cloud, "setsid")) == 3
    assert (cloud / "state").exists(), "it did not create the slice"
    assert run("babysit", *NEW, command=script("exit 2")) == 2
    assert len(calls(cloud, "setsid")) == 4


def test_babysit_finds_the_job_of_an_earlier_babysit(cloud, capfd):
    run("create", "--type=v5litepod-16")
    run("setup", *NEW)
    run("run", "--detach", command=["sleep", "2"])
    assert run("babysit", *NEW, command=["sleep", "2"]) == 0
    assert "test runs the job." in capfd.readouterr().out
    assert len(calls(cloud, "setsid")) == 1


def test_mistakes_are_told_before_anything_runs(cloud):
    for arguments, command, message in [
        (("run",), (), "no command"),
        (("run",), ("python", "--workdir=runs/x"), "another folder on every worker"),
        (("create",), (), "--type is missing"),
        (("create", "--type=v99-8"), (), "--runtime_version"),
        (("create", "--type=v4-8"), ("true",), "is only for run and babysit"),
        (("run", "--env=X"), ("true",), "NAME=VALUE"),
        (("rnu",), (), "unknown verb 'rnu' .did you mean 'run'"),
        (("status", "--nmae=x"), (), "unknown flag --nmae .did you mean 'name'"),
    ]:
        with pytest.raises(errors.UserError, match=message):
            run(*arguments, command=command)
    with pytest.raises(errors.UserError, match="--zone is missing"):
        tpu_vm.run(["tpu_vm", "status", "--name=x"])
    assert not (cloud / "calls").exists()


@pytest.mark.parametrize("verb", tpu_vm.VERBS)
def test_a_dry_run_prints_commands_only(cloud, capsys, verb):
    command = ["python", "-m", "simclr_jax.pretrain", "--workdir=gs://bucket/run"] if verb in ("run", "babysit") else []
    assert run(verb, "--type=v5litepod-16", "--dry_run", command=command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert shlex.split(line)[:4] == ["$", "gcloud", "compute", "tpus"]
    assert not (cloud / "calls").exists()


def test_the_clone_is_packed_without_what_git_ignores(tmp_path):
    tpu_slice.pack(tmp_path / "code.tar.gz")
    with tarfile.open(tmp_path / "code.tar.gz") as tar:
        names = tar.getnames()
    assert {"setup.py", "constraints.txt", "simclr_jax/pretrain.py", "configs/digits.py"} <= set(names)
    assert not any(name.startswith((".venv", ".git/", "runs")) for name in names)


def test_each_run_of_a_sweep_has_a_slice_of_its_own(tmp_path):
    from launch import sweep_file

    runs = sweep_file.load(f"{REPOSITORY}/configs/sweeps/digits_temperature.py", str(tmp_path)).runs
    jobs = sweep_backends.tpu_jobs(["--name=t", "--zone=nowhere1-a", "--type=v5litepod-8", "--spot"])
    commands = [job.command for one in runs for job in jobs(one)]
    assert len(commands) == len(runs)
    names = [next(word for word in command if word.startswith("--name=")) for command in commands]
    assert len(set(names)) == len(runs)
    assert all(len(name) <= len("--name=") + 61 for name in names)
    assert commands[0][-1].count("python -m simclr_jax.") == len(runs[0].stages)
    with pytest.raises(errors.UserError, match="--type is missing"):
        sweep_backends.tpu_jobs(["--zone=nowhere1-a"])


@pytest.mark.heavy
def test_two_workers_pretrain_through_a_preemption(cloud, tmp_path, monkeypatch):
    """The whole way, as a process of its own: queue, copy of this clone, run, preemption, queue, resume, end."""
    from helpers import TINY

    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {COMPILE_FLAGS}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    workdir = tmp_path / "shared" / "run"
    command = [sys.executable, "-m", "launch.tpu_vm", "babysit", *SLICE, *NEW, "--"]
    command += ["python", "-m", "simclr_jax.pretrain", *TINY, f"--workdir={workdir}"]
    command += ["--config.epochs=0.8", "--config.checkpoint.every_steps=4", "--hang_timeout=120"]
    log = tmp_path / "babysit.log"
    with log.open("w") as output:
        job = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    stand_in = importlib.reload(importlib.import_module("stand_in_gcloud"))

    def steps():
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        return [json.loads(line)["step"] for line in lines if "loss" in json.loads(line)]

    wait_until(lambda: (steps() or [0])[-1] >= 6 or job.poll() is not None, seconds=300)
    first = "".join(logs_of(cloud))
    stand_in.preempt()
    assert job.wait(timeout=300) == 0, log.read_text() + first
    text = log.read_text()
    assert "test: PREEMPTED; deleted and created again." in text
    assert len(calls(cloud, "queued-resources create")) == 2
    assert len(calls(cloud, "queued-resources delete")) == 2
    assert not (cloud / "state").exists()
    assert json.loads((workdir / "results.json").read_text())["step"] == 18
    assert (workdir / "checkpoints" / "18").is_dir()
    assert steps() == list(range(1, 18)), "each step once, in order (the last line is left out)"
