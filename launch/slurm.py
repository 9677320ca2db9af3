"""A job on a SLURM cluster: writes its batch script and gives it to sbatch.

    python -m launch.slurm --nodes=2 --gpus_per_node=8 --time=24:00:00 --output=runs/slurm -- \
        python -m simclr_jax.pretrain --config=configs/imagenet.py --workdir=/shared/run1
    python -m launch.slurm ... --dry_run -- COMMAND            # only prints the script
    python -m launch.slurm ... --option=--partition=gpu --option=--account=NAME -- COMMAND

srun starts one process for each GPU (without GPUs: for each node); they find each other by themselves. Two minutes before
the time limit, and when it is preempted, the job saves; then it is put into the queue again and continues, as often as it
takes. After other failures it is put there at most --max_restarts times; after a mistake (exit code 2) or a non-finite
loss (3) never. The clone, its .venv and the workdir have to be on a file system that all nodes mount.
"""

from collections.abc import Sequence
import os
import pathlib
import shlex
import subprocess
import sys

from absl import flags

from launch import common
from simclr_jax import errors
from simclr_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("name", "simclr", "Of the job.", flag_values=values)
    flags.DEFINE_integer("nodes", 1, "How many nodes.", lower_bound=1, flag_values=values)
    text = "GPUs of each node, with one process for each; 0: one process on each node, on its CPU."
    flags.DEFINE_integer("gpus_per_node", 1, text, lower_bound=0, flag_values=values)
    flags.DEFINE_integer("cpus_per_task", None, "CPU cores for each process.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("time", "24:00:00", "Time limit of one start, as sbatch has it.", flag_values=values)
    flags.DEFINE_string("output", "runs/slurm", "Folder for the script and the job's output.", flag_values=values)
    flags.DEFINE_multi_string("option", [], "A further option of sbatch, as in --partition=gpu.", flag_values=values)
    text = "A line of shell before the job, as in 'module load cuda'."
    flags.DEFINE_multi_string("setup", [], text, flag_values=values)
    text = "Failures after which the job is not put into the queue again."
    flags.DEFINE_integer("max_restarts", 3, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Only print the script and the command.", flag_values=values)


def batch_script(
    options: Sequence[str], setup: Sequence[str], command: str, *, job: str = "$SLURM_JOB_ID", max_restarts: int
) -> str:
    """A batch script that runs one job step and puts itself into the queue again where that makes sense.

    Args:
      options: of sbatch; later ones outrank earlier ones, and those that are here.
      setup: lines of shell before the step.
      command: of the step, as shell text.
      job: what scontrol knows the job by, as shell text.
      max_restarts: after how many restarts a failure is final; a preemption never is.
    """
    fixed = [
        "--requeue",
        "--open-mode=append",  # a restart continues the log
        "--signal=TERM@120",  # to the job step, two minutes before the time limit
    ]
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {option}" for option in (*fixed, *options)),
        "",
        f"cd {shlex.quote(os.getcwd())} || exit {errors.EXIT_USER_ERROR}",
        # The Python that wrote this script, where the command says only `python`.
        f"export PATH={shlex.quote(str(pathlib.Path(sys.executable).parent))}:$PATH",
        *setup,
        "# If a process dies, the others would wait for it for ever.",
        f"srun --kill-on-bad-exit=1 {command}",
        "code=$?",
        'case "$code" in',
        f"  0 | {errors.EXIT_USER_ERROR} | {errors.EXIT_NON_FINITE}) ;;",
        f'  {errors.EXIT_PREEMPTED}) scontrol requeue "{job}" ;;',
        f'  *) if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then scontrol requeue "{job}"; fi ;;',
        "esac",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def submit(script: str, path: pathlib.Path) -> int:
    """Writes a batch script and gives it to sbatch, where there is one; returns its exit code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    command = ["sbatch", str(path)]
    print(f"$ {shlex.join(command)}", flush=True)
    try:
        return subprocess.run(command).returncode
    except FileNotFoundError:
        print("There is no sbatch on this machine: run that on the cluster.", file=sys.stderr)
        return errors.EXIT_USER_ERROR


def run(argv: list[str]) -> int:
    """Carries out a command line; returns the exit code.

    Raises:
      UserError: for mistakes.
    """
    _, values, command = common.parse(argv, define_flags, __doc__)
    common.check_command(command)
    for option in values["option"].value:
        if not option.startswith("-"):
            raise UserError(f"--option={option}: give it as sbatch has it, as in --option=--partition=gpu.")
    folder = pathlib.Path(values["output"].value).resolve()
    gpus, nodes = values["gpus_per_node"].value, values["nodes"].value
    options = [
        f"--job-name={values['name'].value}",
        f"--output={folder}/%x_%j.log",
        f"--nodes={nodes}",
        # JAX takes the GPU with the number of the process on its node, so all have to see all GPUs of the node.
        f"--ntasks-per-node={gpus or 1}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *([f"--cpus-per-task={values['cpus_per_task'].value}"] if values["cpus_per_task"].value else []),
        f"--time={values['time'].value}",
        *values["option"].value,
    ]
    script = batch_script(
        options, values["setup"].value, shlex.join(command), max_restarts=values["max_restarts"].value
    )
    path = folder / f"{values['name'].value}.sh"
    if values["dry_run"].value:
        print(f"{script}\n$ sbatch {shlex.quote(str(path))}")
        return 0
    return submit(script, path)


if __name__ == "__main__":
    common.main(run)
