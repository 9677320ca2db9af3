"""`launch.slurm`, and sweeps as job arrays, on a real SLURM cluster of two nodes: requeued, killed, out of time."""

import csv
import os
import pathlib
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
import slurm_cluster

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing())),
    # Two nodes have this machine's cores twice: the tests of this file run one after the other.
    pytest.mark.xdist_group("slurm"),
]

# Steps that take long enough to be interrupted.
FIELDS = (
    "--config.batch_size=256",
    "--config.data.image_size=16",
    "--config.epochs=16",
    "--config.checkpoint.every_steps=10",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a cluster for this file."""
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.running(folder) as environment:
        cache = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_PLATFORMS": "cpu"}
        yield environment | cache | {"XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {COMPILE_FLAGS}"}


class Job:
    """A pretraining that `launch.slurm` has submitted."""

    def __init__(self, cluster, workdir, *flags):
        self.cluster, self.workdir, self.folder = cluster, workdir, workdir.parent / f"{workdir.name}_slurm"
        command = [sys.executable, "-m", "simclr_jax.pretrain", *TINY, *FIELDS, f"--workdir={workdir}"]
        launch = [sys.executable, "-m", "launch.slurm", "--nodes=2", "--time=10", f"--output={self.folder}", *flags]
        done = self.call(*launch, "--", *command, f"--compilation_cache={workdir.parent / 'programs'}")
        self.id = re.search(r"Submitted batch job (\d+)", done.stdout).group(1)

    def call(self, *words):
        return subprocess.run(words, cwd=REPOSITORY, env=self.cluster, capture_output=True, text=True, check=True)

    def log(self):
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def state(self):
        return re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", self.id).stdout).group(1)

    def wait(self, condition, what):
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.state()}\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def wait_for_step(self, step):
        self.wait(lambda: last_step(self.workdir) >= step, f"step {step}")

    def start_at_once(self):
        """A requeued job waits two minutes, which SLURM calls its begin time."""
        self.wait(lambda: self.state() in ("PENDING", "REQUEUED"), "requeue")
        self.call("scontrol", "update", f"jobid={self.id}", "StartTime=now")

    def wait_until_done(self):
        self.wait(lambda: self.state() in ("COMPLETED", "FAILED"), "end")
        assert self.state() == "COMPLETED", self.log()[-3000:]

    def tasks(self):
        """The process ids of the job's two tasks."""
        pattern = f"simclr_jax.pretrain .*workdir={self.workdir} "
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
        pids = [int(pid) for pid in found.stdout.split()]
        return [pid for pid in pids if "python" in os.readlink(f"/proc/{pid}/exe")]


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    job = Job(cluster, tmp_path_factory.mktemp("jobs") / "whole")
    job.wait_until_done()
    assert "on 2 cpu device(s)" in job.log()
    return job


def assert_same(job, undisturbed):
    lines, step, arrays = outcome(job.workdir)
    expected_lines, total, expected = outcome(undisturbed.workdir)
    assert step == total
    assert lines == expected_lines
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)


def test_a_job_that_is_requeued_and_then_loses_a_task_ends_as_if_undisturbed(cluster, undisturbed):
    job = Job(cluster, undisturbed.workdir.parent / "requeued")
    job.wait_for_step(30)
    job.call("scontrol", "requeue", job.id)
    job.start_at_once()
    job.wait(lambda: re.search(r"from step \d+", job.log()), "second start")
    job.wait_for_step(60)
    os.kill(job.tasks()[-1], signal.SIGKILL)
    job.start_at_once()
    job.wait_until_done()
    assert len(re.findall(r"from step \d+", job.log())) >= 2
    assert_same(job, undisturbed)


def test_a_job_saves_before_its_time_limit_and_is_requeued(cluster, undisturbed):
    # SIGTERM twenty seconds after the start, instead of two minutes before the end.
    job = Job(cluster, undisturbed.workdir.parent / "limited", "--time=2", "--option=--signal=TERM@100")
    saved = re.compile(r"asked to stop: saved step (\d+) of")
    job.wait(lambda: saved.search(job.log()) or job.state() == "COMPLETED", "signal")
    assert saved.search(job.log()), job.log()[-3000:]
    job.wait(lambda: job.state() == "PENDING", "requeue")
    job.call("scontrol", "update", f"jobid={job.id}", "TimeLimit=10")  # the second start may end
    job.start_at_once()
    job.wait_until_done()
    assert_same(job, undisturbed)


SWEEP = """
def sweep():
    small = "--config.data.image_size=8 --config.model.depth=10 --config.model.width=0.125 --config.batch_size=64"
    for rate in (0.3, 1e30):
        yield {
            "run": f"pretrain --config=configs/digits.py:epochs=1 --config.optimizer.warmup_epochs=0.1 {small}",
            "config.optimizer.learning_rate": rate,
        }
"""


def test_a_sweep_is_a_job_array_in_which_one_run_fails(cluster, tmp_path):
    (tmp_path / "rates.py").write_text(SWEEP)
    words = [sys.executable, "-m", "launch.sweep", f"--sweep={tmp_path / 'rates.py'}", f"--workdir={tmp_path / 'runs'}"]
    environment = cluster | {"XLA_FLAGS": COMPILE_FLAGS}
    submitted = subprocess.run(
        [*words, "--backend=slurm", "--", "--time=10"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"Submitted batch job (\d+)", submitted.stdout).group(1)
    deadline = time.monotonic() + 300
    while subprocess.run(["squeue", "--noheader", "--job", number], env=cluster, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    subprocess.run([*words, "--collect"], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    rows = list(csv.DictReader((tmp_path / "runs" / "results.csv").read_text().splitlines()))
    logs = "\n".join(path.read_text() for path in pathlib.Path(tmp_path / "runs").rglob("*.log"))
    assert [row["status"] for row in rows] == ["done", "non-finite"], logs
    assert rows[0]["step"] == "23"


def test_a_cluster_without_gpus_takes_the_default(cluster, tmp_path):
    """Once it was one GPU, which such a cluster refuses: Invalid generic resource."""
    words = [sys.executable, "-m", "launch.slurm", f"--output={tmp_path}", "--time=1", "--", "true"]
    done = subprocess.run(words, cwd=REPOSITORY, env=cluster, capture_output=True, text=True)
    assert (done.returncode, "Submitted" in done.stdout) == (0, True), done.stderr
    words.insert(3, "--gpus_per_node=1")
    refused = subprocess.run(words, cwd=REPOSITORY, env=cluster, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "Invalid generic resource" in refused.stderr
