"""Many runs of one kind: pretrains, evaluates and tabulates what a file in `configs/sweeps/` asks for.

    python -m launch.sweep --sweep=configs/sweeps/digits_temperature.py --workdir=runs/temperature --workers=2
    python -m launch.sweep --sweep=... --workdir=... --dry_run                # every command, after all were checked
    python -m launch.sweep --sweep=... --workdir=... --collect                # only the table
    python -m launch.sweep --sweep=... --workdir=... --backend=slurm -- --partition=gpu --gpus=1 --time=08:00:00
    python -m launch.sweep --sweep=... --workdir=gs://... --backend=tpu --workers=2 -- FLAGS OF launch.tpu_vm babysit

The same command continues a sweep: what is finished is left alone, what was interrupted continues, what is new in the
sweep file is run. Writes results.csv, results.md and, where the sweep has one, a figure, results.png, to the workdir; and
for each run a folder with a folder for each stage and its log. See docs/sweeps.md.

Exit codes: 0 all runs are finished (a loss that became non-finite counts as a result), 1 some failed, 2 a mistake, told
before anything runs, 75 stopped by SIGTERM or Ctrl-C.
"""

import pathlib
import shlex
import sys

from absl import flags
from etils import epath

from launch import common
from launch import slurm
from launch import sweep_backends
from launch import sweep_figure
from launch import sweep_file
from launch import sweep_runs
from launch import sweep_table
from launch import sweep_workers
from simclr_jax import errors
from simclr_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    text = "A sweep file: configs/sweeps/NAME.py[:argument=value,...]."
    flags.DEFINE_string("sweep", None, text, flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder for the runs and the table.", flag_values=values)
    text = "How many runs at a time. Default: on this machine one for each GPU, or 1; elsewhere no limit."
    flags.DEFINE_integer("workers", None, text, lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "backend", "local", ["local", "slurm", "tpu"], "Where the runs are carried out.", flag_values=values
    )
    text = "Only these runs: a run's name, or parts of it, as in temperature=0.1,seed=*. May be repeated."
    flags.DEFINE_multi_string("only", [], text, flag_values=values)
    text = "How often a stage is started again that has failed for a reason unknown."
    flags.DEFINE_integer("retries", 1, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Check all runs and print their commands.", flag_values=values)
    flags.DEFINE_bool("collect", False, "Only write the table, of what is there.", flag_values=values)


def parse(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags, and what stands behind `--`.

    Raises:
      UserError: for unknown or missing ones.
    """
    _, values, behind = common.parse(argv, define_flags, __doc__)
    common.require(values, sweep="configs/sweeps/NAME.py", workdir="runs/NAME")
    return values, behind


def run(argv: list[str]) -> int:
    """Carries out a sweep; returns the exit code.

    Args:
      argv: the command line, `argv[0]` being the program.

    Raises:
      UserError: before anything is started.
    """
    values, behind = parse(argv)
    workdir, backend = values["workdir"].value, values["backend"].value
    if behind and backend == "local":
        raise UserError(f"{behind[0]!r} behind -- is for --backend=slurm or tpu.")
    loaded = sweep_file.load(values["sweep"].value, workdir)
    runs = loaded.runs
    chosen = sweep_file.select(runs, values["only"].value)

    def tabulate() -> None:
        print(
            f"\n{sweep_table.write(runs, epath.Path(workdir), loaded.description)}\n\n{workdir}/results.csv has all columns."
        )
        if loaded.figure and sweep_figure.draw(loaded.figure, runs, epath.Path(workdir) / "results.png"):
            print(f"{workdir}/results.png shows them.")

    sweep_runs.check(runs, sweep_runs.Stage.check)
    if values["collect"].value:
        tabulate()
        return 0
    sweep_runs.check(chosen, sweep_runs.Stage.check_places)
    todo = [one for one in chosen if one.status() not in ("done", "non-finite")]
    for one in chosen:
        if one.status() == "non-finite":
            print(f"{one.name}: non-finite before, so left out; remove {one.records} to run it anew.")
    print(f"{len(runs)} runs in the sweep, {len(chosen)} chosen, {len(todo)} to do.", flush=True)
    dry_run = values["dry_run"].value
    if todo and backend == "slurm":
        return _slurm(values, runs, todo, behind)
    jobs = sweep_workers.local_jobs if backend == "local" else sweep_backends.tpu_jobs(behind)
    for one in todo if dry_run else ():
        print(f"\n# {one.name}")
        for job in jobs(one):
            print(shlex.join("python" if word == sys.executable else word for word in job.command))
    if dry_run:
        return 0
    if backend == "local":
        devices = sweep_workers.gpus()
        shares = sweep_workers.shares(values["workers"].value or len(devices) or 1, devices)
    else:
        shares = [sweep_workers.Share()] * (values["workers"].value or 1)
    workers = sweep_workers.Workers(shares, retries=values["retries"].value, jobs=jobs)
    outcomes = workers.work(todo)
    tabulate()
    if workers.stopping.is_set() and "stopped" in outcomes:
        print("Stopped; the same command continues.", file=sys.stderr)
        return errors.EXIT_PREEMPTED
    return 0 if set(outcomes) <= {"done", "non-finite"} else 1


def _slurm(values: flags.FlagValues, runs: list, todo: list, behind: list[str]) -> int:
    folder = pathlib.Path(values["workdir"].value).resolve() / "slurm"
    command = [sys.executable, "-m", "launch.sweep"]
    command += [f"--{name}={values[name].value}" for name in ("sweep", "workdir", "retries")]
    script = sweep_backends.slurm_script(
        runs,
        todo,
        command,
        name=pathlib.Path(values["sweep"].value.partition(":")[0]).stem,
        folder=folder,
        workers=values["workers"].value or 0,
        flags=behind,
    )
    if values["dry_run"].value:
        print(script)
        return 0
    return slurm.submit(script, folder / "array.sh")


if __name__ == "__main__":
    common.main(run)
