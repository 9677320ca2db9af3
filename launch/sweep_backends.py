"""Where a sweep is carried out other than by this machine: a SLURM job array, TPU jobs."""

import os
import pathlib
import shlex
import subprocess
import sys

from launch.sweep_runs import Run
from simclr_jax import errors


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
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        "--requeue",
        "--signal=TERM@120",  # to the job step, two minutes before the time limit
        *flags,
    ]
    names = [f"  {shlex.quote(run.name)}  # {number}" for number, run in enumerate(runs)]
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        "runs=(",
        *names,
        ")",
        f"cd {shlex.quote(os.getcwd())} || exit {errors.EXIT_USER_ERROR}",
        f'srun {shlex.join(again)} --workers=1 --only="${{runs[$SLURM_ARRAY_TASK_ID]}}"',
        "code=$?",
        f'if [ "$code" = {errors.EXIT_PREEMPTED} ]; then',
        '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
        "fi",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def submit(script: pathlib.Path) -> int:
    """Gives the script to sbatch, where there is one; returns its exit code."""
    command = ["sbatch", str(script)]
    print(f"$ {shlex.join(command)}", flush=True)
    try:
        return subprocess.run(command).returncode
    except FileNotFoundError:
        print("There is no sbatch on this machine: run that on the cluster.", file=sys.stderr)
        return errors.EXIT_USER_ERROR
