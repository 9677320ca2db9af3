"""Where a sweep is carried out other than by this machine: a SLURM job array, TPU jobs."""

from collections.abc import Callable
import hashlib
import pathlib
import re
import shlex
import sys

from launch import common
from launch import slurm
from launch import tpu_vm
from launch.sweep_runs import Run
from launch.sweep_workers import Job
from simclr_jax.errors import UserError


def slurm_script(
    runs: list[Run],
    todo: list[Run],
    again: list[str],
    *,
    name: str,
    folder: pathlib.Path,
    workers: int,
    flags: list[str],
) -> str:
    """A batch script for a job array: task i carries out `runs[i]`, on one node, as `--only=NAME` does.

    A task that was preempted, or that comes near its time limit, saves and is put into the queue again.

    Args:
      runs: all of the sweep, in its order.
      todo: those that the array contains.
      again: the launcher's command line for the sweep.
      name: of the job.
      folder: absolute, for the tasks' output.
      workers: how many tasks run at a time; 0 for no limit.
      flags: further options of sbatch, which outrank those here.
    """
    tasks = ",".join(str(number) for number, run in enumerate(runs) if run in todo)
    options = [
        f"--job-name={name}",
        f"--array={tasks}" + (f"%{workers}" if workers else ""),
        f"--output={folder}/%A_%a.log",
        "--nodes=1",
        "--ntasks=1",
        *flags,
    ]
    names = [f"  {shlex.quote(run.name)}  # {number}" for number, run in enumerate(runs)]
    command = f'{shlex.join(again)} --workers=1 --only="${{runs[$SLURM_ARRAY_TASK_ID]}}"'
    # The launcher starts failed stages again by itself.
    return slurm.batch_script(
        options,
        ["runs=(", *names, ")"],
        command,
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        max_restarts=0,
    )


def tpu_jobs(flags: list[str]) -> Callable[[Run], list[Job]]:
    """Each run as one TPU job: its stages one after the other on a slice of its own, by `launch.tpu_vm babysit`.

    Args:
      flags: of `launch.tpu_vm babysit`. `--name` there is the beginning of the slices' names.

    Raises:
      UserError: where flags are missing or unknown.
    """
    _, values, command = common.parse(["sweep", *flags], tpu_vm.define_flags, tpu_vm.__doc__)
    common.require(values, zone="us-west4-a", type="v5litepod-16")
    if command:
        raise UserError(f"{command[0]!r}: the sweep itself says what runs.")
    prefix = values["name"].value or "sweep"
    rest = [flag for flag in flags if not flag.lstrip("-").startswith("name=")]

    def jobs(run: Run) -> list[Job]:
        commands = [shlex.join(["python", *stage.command()[1:]]) for stage in run.stages]
        # A name that Google's cloud accepts, and that no other run has.
        digest = hashlib.sha256(f"{run.stages[0].workdir}".encode()).hexdigest()[:8]
        plain = re.sub("[^a-z0-9]+", "-", run.name.lower())[: 50 - len(prefix)].strip("-")
        name = f"{prefix}-{plain}-{digest}"
        babysit = [sys.executable, "-m", "launch.tpu_vm", "babysit", f"--name={name}", *rest, "--"]
        return [Job([*babysit, "bash", "-c", f"trap : TERM; {' && '.join(commands)}"], tuple(run.stages))]

    return jobs
