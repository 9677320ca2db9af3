"""Backends of a sweep other than this machine: a SLURM job array, and TPU jobs."""

from collections.abc import Callable
import hashlib
import pathlib
import re
import shlex
import sys

from launch import common
from launch import slurm
from launch import tpu_vm
from launch.sweep_runs import SweepRun
from launch.sweep_workers import Job
from simclr_jax.errors import UserError


def slurm_script(
    runs: list[SweepRun],
    todo: list[SweepRun],
    again: list[str],
    *,
    name: str,
    folder: pathlib.Path,
    workers: int,
    flags: list[str],
) -> str:
    """A batch script for a job array: task i executes `runs[i]` on one node, by `launch.sweep --only=NAME`.

    A task that is preempted, or is close to its time limit, saves and is requeued.

    Args:
      runs: all runs of the sweep, in order.
      todo: the runs that the array contains.
      again: the command line of this launcher for the sweep.
      name: of the job.
      folder: absolute path of the folder for the output of the tasks.
      workers: number of tasks that run at a time; 0 for no limit.
      flags: more options of sbatch, which override those that this function sets.
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
    # No restarts by SLURM: `launch.sweep` restarts failed stages.
    return slurm.batch_script(
        options,
        ["runs=(", *names, ")"],
        command,
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        max_restarts=0,
    )


def tpu_jobs(flags: list[str]) -> Callable[[SweepRun], list[Job]]:
    """Makes each run one TPU job: a separate slice executes its stages in order, by `launch.tpu_vm babysit`.

    Args:
      flags: of `launch.tpu_vm babysit`. `--name` is the beginning of the names of the slices.

    Raises:
      UserError: for missing and unknown flags.
    """
    _, values, command = common.parse(["sweep", *flags], tpu_vm.define_flags, tpu_vm.__doc__)
    common.require(values, zone="us-west4-a", type="v5litepod-16")
    if command:
        raise UserError(f"{command[0]!r}: the sweep file says what runs, so no command can be given.")
    prefix = values["name"].value or "sweep"
    rest = [flag for flag in flags if not flag.lstrip("-").startswith("name=")]

    def jobs(run: SweepRun) -> list[Job]:
        commands = [shlex.join(["python", *stage.command()[1:]]) for stage in run.stages]
        # A name that Google Cloud accepts, and that no other run has.
        digest = hashlib.sha256(f"{run.stages[0].workdir}".encode()).hexdigest()[:8]
        plain = re.sub("[^a-z0-9]+", "-", run.name.lower())[: 50 - len(prefix)].strip("-")
        name = f"{prefix}-{plain}-{digest}"
        babysit = [sys.executable, "-m", "launch.tpu_vm", "babysit", f"--name={name}", *rest, "--"]
        return [Job([*babysit, "bash", "-c", f"trap : TERM; {' && '.join(commands)}"], tuple(run.stages))]

    return jobs
