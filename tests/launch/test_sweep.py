"""The command line of a sweep: mistakes, its table, job arrays of SLURM, and a real one that is interrupted."""

import csv
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from compile_flags import COMPILE_FLAGS
import pytest
from sweeps import TEMPERATURES
from sweeps import call
from sweeps import finish
from sweeps import load

from launch import sweep_table
from simclr_jax import errors
from simclr_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("at_repository")


def test_columns_and_means_over_seeds(write, tmp_path):
    text = """
def sweep():
    for rate in (0.5, 1.0):
        for seed in (0, 1):
            yield {"run": "pretrain --config=configs/digits.py", "config.optimizer.learning_rate": rate, "config.seed": seed,
                   "then": {"knn": "knn"}}
"""
    runs = load(write, text, tmp_path)
    for number, run in enumerate(runs[:3]):
        finish(run.stages[0], top1=0.9 + 0.02 * number, loss=1.5, extra="x", nothing=None, seconds=7.4)
        finish(run.stages[1], top1=0.8)
    table = sweep_table.rows(runs)
    assert sweep_table.columns(table) == [
        *("run", "status", "optimizer.learning_rate", "seed", "top1", "loss", "seconds", "n", "extra", "nothing"),
        *("knn.top1", "knn.n"),
    ]
    shown = sweep_table.short(runs, table)
    assert shown[0] == ["optimizer.learning_rate", "seed", "status", "top1", "loss", "seconds", "knn.top1"]
    assert shown[1] == ["0.5", "0", "done", "90.0", "1.5", "7", "80.0"]
    assert shown[4] == ["1", "1", "not started", "", "", "", ""]
    assert sweep_table.over_seeds(runs, table) == [
        ["optimizer.learning_rate", "runs", "top1", "loss", "seconds", "knn.top1"],
        ["0.5", "2", "91.0 +- 1.4", "1.5 +- 0", "7 +- 0", "80.0 +- 0.0"],
        ["1", "1", "94.0", "1.5", "7", "80.0"],
    ]
    assert sweep_table.over_seeds(runs[:1], table[:1]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workdir=x",), "--sweep is missing"),
        (("--sweep=nowhere.py", "--workdir=x"), "--sweep=nowhere.py: no such file. The sweeps are in"),
        (("--sweep=configs/sweeps/batch_size.py",), "--workdir is missing"),
        (("--sweeps=x",), "unknown flag --sweeps .did you mean 'sweep'"),
        (("--workers=0",), "--workers=0: should be a positive integer"),
        (("--backend=cloud",), "--backend=cloud: should be one of local, slurm, tpu"),
        (("x",), "unknown argument 'x'"),
        (
            ("--sweep=configs/sweeps/batch_size.py", "--workdir=x", "--", "--time=1"),
            "'--time=1' after -- is only for --backend",
        ),
        (("--sweep=configs/sweeps/semi_supervised.py", "--workdir=x"), "the workdir of a pretraining run is missing"),
        (("--sweep=configs/sweeps/batch_size.py:size=3", "--workdir=x"), "no argument 'size'"),
    ],
)
def test_mistakes_on_the_command_line_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        call(*arguments)


# --- SLURM, with stand-ins for its commands ---


def stand_in(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_job_array_runs_what_is_unfinished(write, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    stand_in(tmp_path / "bin", "sbatch", 'echo "submitted $1"')
    stand_in(tmp_path / "bin", "srun", f'printf "%s\\n" "$@" > {tmp_path}/srun; exit $(cat {tmp_path}/code)')
    stand_in(tmp_path / "bin", "scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    workdir = tmp_path / "some runs"
    finish_first = load(write, workdir=workdir)[0]
    for stage in finish_first.stages:
        finish(stage)
    arguments = (f"--sweep={write(TEMPERATURES)}", f"--workdir={workdir}", "--backend=slurm", "--workers=3")
    assert call(*arguments, "--dry_run", "--", "--time=1:00:00") == 0
    assert not (workdir / "slurm").exists()
    assert call(*arguments, "--", "--time=1:00:00") == 0
    path = workdir / "slurm" / "array.sh"
    assert f"submitted {path}" in capfd.readouterr().out
    script = path.read_text()
    assert "\n#SBATCH --array=1%3\n" in script
    assert "\n#SBATCH --time=1:00:00\n" in script
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "77"}
    for code in (0, 2, 75):
        (tmp_path / "code").write_text(str(code))
        assert subprocess.run(["bash", str(path)], env=environment).returncode == code
    words = (tmp_path / "srun").read_text().splitlines()
    assert words == [
        "--kill-on-bad-exit=1",
        *(
            sys.executable,
            "-m",
            "launch.sweep",
            f"--sweep={write(TEMPERATURES)}",
            f"--workdir={workdir}",
            "--retries=1",
        ),
        *("--workers=1", "--only=temperature=0.5"),
    ]
    assert (tmp_path / "scontrol").read_text() == "requeue 77_1\n"  # once, for the code 75
    # What the task starts is a command line that this launcher takes.
    assert call(*words[4:], "--dry_run") == 0
    assert "1 chosen, 1 to do" in capfd.readouterr().out


def test_without_sbatch_the_script_is_written_all_the_same(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        call(f"--sweep={write(TEMPERATURES)}", f"--workdir={tmp_path / 'w'}", "--backend=slurm")
        == errors.EXIT_USER_ERROR
    )
    assert "#SBATCH --array=0,1\n" in (tmp_path / "w" / "slurm" / "array.sh").read_text()
    assert "There is no sbatch on this machine" in capsys.readouterr().err


# --- The real thing ---

REAL = """
def sweep():
    small = "--config.data.image_size=8 --config.model.depth=10 --config.model.width=0.125 --config.batch_size=64"
    tiny = small + " --config.log_every_steps=1"
    for normalize in (True, False):
        yield {
            "run": f"pretrain --config=configs/digits.py:epochs=2 --config.optimizer.warmup_epochs=0.1 {tiny}",
            "config.loss.normalize": normalize,
            "then": {"knn": "knn --config.map_points=0"},
        }
"""


@pytest.mark.heavy
def test_a_real_sweep_is_interrupted_and_resumed(write, tmp_path):
    workdir = tmp_path / "runs"
    runs = load(write, REAL, workdir)
    command = [sys.executable, "-m", "launch.sweep", f"--sweep={write(REAL)}", f"--workdir={workdir}", "--workers=2"]
    environment = os.environ | {"XLA_FLAGS": COMPILE_FLAGS, "JAX_PLATFORMS": "cpu"}

    def logs():
        return "\n".join(path.read_text() for path in workdir.glob("*/*.log"))

    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    metrics = [pathlib.Path(run.stages[0].workdir) / "metrics.jsonl" for run in runs]
    try:
        while not any(path.exists() and path.read_text() for path in metrics):
            assert launcher.poll() is None, logs()
            assert time.monotonic() < deadline, logs()
            time.sleep(0.01)
    finally:
        launcher.send_signal(signal.SIGTERM)
        printed = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == errors.EXIT_PREEMPTED, printed
    assert [run.status() for run in runs] == ["unfinished", "unfinished"]
    assert "the same command continues from there" in logs()

    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert resumed.returncode == 0, resumed.stdout + logs()
    assert re.search(r"on 1 cpu device\(s\), from step \d+", logs())
    rows = list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))
    assert [(row["loss.normalize"], row["status"], row["step"]) for row in rows] == [
        ("True", "done", "45"),
        ("False", "done", "45"),
    ]
    assert all(float(row["knn.top1"]) > 0.3 and float(row["loss"]) > 0 for row in rows)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "2 chosen, 0 to do" in again.stdout
