"""Submits a job to a SLURM cluster: writes its batch script and gives it to sbatch.

    python -m launch.slurm --nodes=2 --gpus_per_node=8 --cpus_per_task=12 --time=24:00:00 --output=runs/slurm -- \
        python -m simclr_jax.pretrain --config=configs/imagenet.py --workdir=/shared/run1
    python -m launch.slurm ... --dry_run -- COMMAND            # only prints the script
    python -m launch.slurm ... --option=--partition=gpu --option=--account=NAME -- COMMAND

srun starts one process for each GPU (without GPUs: for each node). The processes connect without further settings.
Two minutes before the time limit, and when it is preempted, the job saves. It is then requeued and continues, as
often as necessary. After other failures it is requeued at most --max_restarts times. It is never requeued after a
mistake (exit code 2), a non-finite loss (3) or with a disk that is full or away (74). The clone, its .venv and the
workdir have to be on a file system that all nodes mount.
"""

from collections.abc import Sequence
import os
import pathlib
import re
import shlex
import subprocess
import sys

from absl import flags

from launch import common
from simclr_jax import errors
from simclr_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this launcher."""
    flags.DEFINE_string("name", "simclr", "Name of the job.", flag_values=values)
    flags.DEFINE_integer("nodes", 1, "Number of nodes.", lower_bound=1, flag_values=values)
    text = "GPUs to ask for on each node, with one process for each; 0: none, and one process on each node."
    flags.DEFINE_integer("gpus_per_node", 0, text, lower_bound=0, flag_values=values)
    flags.DEFINE_integer("cpus_per_task", None, "CPU cores for each process.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("time", "24:00:00", "Time limit of one start, in the format of sbatch.", flag_values=values)
    flags.DEFINE_string("output", "runs/slurm", "Folder for the script and the job's output.", flag_values=values)
    flags.DEFINE_multi_string("option", [], "Another option for sbatch, as in --partition=gpu.", flag_values=values)
    text = "A shell command to run before the job, as in 'module load cuda'."
    flags.DEFINE_multi_string("setup", [], text, flag_values=values)
    text = "Number of failures after which the job is not requeued."
    flags.DEFINE_integer("max_restarts", 3, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Only print the script and the command.", flag_values=values)


def batch_script(
    options: Sequence[str], setup: Sequence[str], command: str, *, job: str = "$SLURM_JOB_ID", max_restarts: int
) -> str:
    """A batch script that runs one job step and requeues itself if another start may succeed.

    Args:
      options: of sbatch; later options override earlier ones, and those that this function adds.
      setup: shell commands before the step.
      command: of the step, as shell text.
      job: id of the job for scontrol, as shell text.
      max_restarts: number of restarts after which a failure is final; a preemption never is.

    Raises:
      UserError: for an option with a line break.
    """
    fixed = [
        "--requeue",
        "--open-mode=append",  # a restart continues the log
        "--signal=TERM@120",  # to the job step, two minutes before the time limit
    ]
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {quoted(option)}" for option in (*fixed, *options)),
        "",
        f"cd {shlex.quote(os.getcwd())} || exit {errors.EXIT_USER_ERROR}",
        # So that `python` in the command is the Python that wrote this script.
        f"export PATH={shlex.quote(str(pathlib.Path(sys.executable).parent))}:$PATH",
        *setup,
        "# If a process dies, the other processes would wait for it forever.",
        f"srun --kill-on-bad-exit=1 {command}",
        "code=$?",
        'case "$code" in',
        f"  {' | '.join(map(str, (0, *errors.FINAL)))}) ;;",
        f'  {errors.EXIT_PREEMPTED}) scontrol requeue "{job}" ;;',
        f'  *) if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then scontrol requeue "{job}"; fi ;;',
        "esac",
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def quoted(option: str) -> str:
    """An option as sbatch reads it in an #SBATCH line.

    sbatch has its own rules: a backslash escapes the next character inside single quotes too, and "#" begins a comment.

    Raises:
      UserError: for a line break, which ends the line whatever the quotes.
    """
    if "\n" in option:
        raise UserError(f"{option!r}: an option of sbatch cannot have a line break.")
    escaped = re.sub(r'(["\\])', r"\\\1", option)
    return f'"{escaped}"' if re.search(r"""[\s"'\\#]""", option) else option


def submit(script: str, path: pathlib.Path) -> int:
    """Writes a batch script and gives it to sbatch. Returns the exit code of sbatch, or 2 where it is not installed."""
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
    for option in values.option:
        if not option.startswith("-"):
            raise UserError(f"--option={option}: give it as sbatch takes it, as in --option=--partition=gpu.")
    folder = pathlib.Path(values.output).resolve()
    gpus, nodes = values.gpus_per_node, values.nodes
    options = [
        f"--job-name={values.name}",
        f"--output={folder}/%x_%j.log",
        f"--nodes={nodes}",
        # JAX uses the GPU whose number is that of the process on its node, so each process has to see all GPUs.
        f"--ntasks-per-node={gpus or 1}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *([f"--cpus-per-task={values.cpus_per_task}"] if values.cpus_per_task else []),
        f"--time={values.time}",
        *values.option,
    ]
    script = batch_script(options, values.setup, shlex.join(command), max_restarts=values.max_restarts)
    path = folder / f"{values.name}.sh"
    if values.dry_run:
        print(f"{script}\n$ sbatch {shlex.quote(str(path))}")
        return 0
    return submit(script, path)


if __name__ == "__main__":
    common.main(run)
