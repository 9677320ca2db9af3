"""The batch script, as bash runs it with SLURM's variables set and stand-ins for srun and scontrol."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

from compile_flags import COMPILE_FLAGS
from helpers import REPOSITORY
from helpers import TINY
import pytest

from launch import slurm
from simclr_jax import errors

# Starts the tasks of a step with the variables that JAX's cluster detection reads; its code is the highest of theirs.
SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
shift
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1 SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
done
highest=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
  wait -n; code=$?
  [ $code -gt $highest ] && highest=$code
done
exit $highest
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with stand-ins on PATH: srun, scontrol and sbatch, the latter two of which note their arguments."""
    for name, text in {
        "srun": SRUN,
        "scontrol": f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n',
        "sbatch": f'#!/bin/sh\necho "$@" >> {tmp_path}/sbatch\n',
    }.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def write(cluster, command, *arguments):
    assert slurm.run(["slurm", f"--output={cluster}", "--name=test", *arguments, "--", *command]) == 0
    assert (cluster / "sbatch").read_text().split()[-1] == str(cluster / "test.sh")
    return cluster / "test.sh"


def execute(path, tasks=1, **variables):
    # Job ids of their own, from which JAX takes the coordinator's port.
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": str(tasks)} | variables
    return subprocess.run(["bash", str(path)], env=os.environ | job, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (0, 0, False),
        (2, 0, False),
        (3, 0, False),
        (75, 9, True),
        (1, 0, True),
        (1, 2, True),
        (1, 3, False),
        (137, 0, True),
    ],
)
def test_what_is_put_into_the_queue_again(cluster, code, restarts, requeued):
    path = write(cluster, ["bash", "-c", f"exit {code}"])
    assert execute(path, SLURM_RESTART_COUNT=str(restarts)).returncode == code
    assert (cluster / "scontrol").exists() == requeued
    if requeued:
        assert (cluster / "scontrol").read_text() == f"requeue {os.getpid()}\n"


def test_options(cluster):
    options = ("--nodes=2", "--gpus_per_node=8", "--time=1:00:00", "--option=--partition=fast", "--setup=export A=1")
    lines = write(cluster, ["python", "-c", "print('a b')"], *options).read_text().splitlines()
    given = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue", "--signal=TERM@120"} <= set(given)
    assert given[-1] == "--partition=fast"
    assert "export A=1" in lines
    step = next(line for line in lines if line.startswith("srun"))
    assert shlex.split(step)[2:] == ["python", "-c", "print('a b')"]
    assert all(not line.startswith("#SBATCH") for line in lines[len(given) + 1 :]), "sbatch reads them at the top only"


def read_by_sbatch(line):
    """The words of an #SBATCH line, by the rules of sbatch (`_get_argument` of its source), which are not those of a shell."""
    words, word, quote, escaped = [], "", "", False
    for character in line:
        if not quote and character.isspace():  # ends a word even after a backslash
            words, word = [*words, word], ""
        elif escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "'\"":
            quote = character
        elif character == "#":
            break
        else:
            word += character
    return [word for word in [*words, word] if word]


@pytest.mark.parametrize("name", ["two words", "it's", 'a "b" c', "back\\slash", "#1", "a\\ #b", "plain,v5e:4x4"])
def test_options_are_quoted_for_sbatch(cluster, name):
    lines = write(cluster, ["true"], f"--option=--comment={name}").read_text().splitlines()
    (line,) = (line for line in lines if "--comment" in line)
    assert read_by_sbatch(line.removeprefix("#SBATCH ")) == [f"--comment={name}"]


def test_mistakes(cluster, capsys):
    with pytest.raises(errors.UserError, match="no command"):
        slurm.run(["slurm"])
    with pytest.raises(errors.UserError, match="--option=partition=x"):
        slurm.run(["slurm", "--option=partition=x", "--", "true"])
    with pytest.raises(errors.UserError, match="cannot have a line break"):
        slurm.run(["slurm", "--option=--comment=a\nb", "--", "true"])
    assert slurm.run(["slurm", "--dry_run", f"--output={cluster}", "--", "true"]) == 0
    assert "$ sbatch" in capsys.readouterr().out
    assert not (cluster / "sbatch").exists()


@pytest.mark.heavy
def test_two_tasks_pretrain_as_one_job(cluster, monkeypatch):
    """JAX finds the processes by SLURM's variables alone."""
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {COMPILE_FLAGS}")
    monkeypatch.chdir(REPOSITORY)
    workdir = cluster / "run"
    command = [sys.executable, "-m", "simclr_jax.pretrain", *TINY, f"--workdir={workdir}", "--config.epochs=0.2"]
    done = execute(write(cluster, command), tasks=2)
    assert done.returncode == 0, done.stderr
    assert "on 4 cpu device(s)" in done.stderr
    assert json.loads((workdir / "results.json").read_text())["step"] == 5
    assert pathlib.Path(workdir / "checkpoints" / "5").is_dir()
