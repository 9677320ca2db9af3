"""Runs a sweep: pretrains and evaluates every run that a file in `configs/sweeps/` yields, and tabulates the results.

    python -m launch.sweep --sweep=configs/sweeps/digits_temperature.py --workdir=runs/temperature --workers=2
    python -m launch.sweep --sweep=... --workdir=... --dry_run                # checks all runs, prints their commands
    python -m launch.sweep --sweep=... --workdir=... --collect                # only the table
    python -m launch.sweep --sweep=... --workdir=... --backend=slurm -- --partition=gpu --gpus=1 --time=08:00:00
    python -m launch.sweep --sweep=... --workdir=gs://... --backend=tpu --workers=2 -- FLAGS OF launch.tpu_vm babysit

The same command continues a sweep: it skips finished runs, continues interrupted runs, and starts runs that are new in the
sweep file. It writes results.csv, results.md and, if the sweep has a figure, results.png to the workdir. Each run has a
folder there, with a folder and a log for each stage. See docs/sweeps.md.

Exit codes: 0 all runs are finished (a loss that became non-finite counts as a result), 1 some failed, 2 a mistake, reported
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
from simclr_jax.runtime.flags import check_folder


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this launcher."""
    text = "A sweep file: configs/sweeps/NAME.py[:argument=value,...]."
    flags.DEFINE_string("sweep", None, text, flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder for the runs and the table.", flag_values=values)
    text = "Number of runs at a time. Default: one for each GPU of this machine, or 1; with another backend no limit."
    flags.DEFINE_integer("workers", None, text, lower_bound=1, flag_values=values)
    flags.DEFINE_enum("backend", "local", ["local", "slurm", "tpu"], "Where the runs are executed.", flag_values=values)
    text = "Only these runs: the name of a run, or parts of it, as in temperature=0.1,seed=*. May be repeated."
    flags.DEFINE_multi_string("only", [], text, flag_values=values)
    text = "How often to restart a stage that failed for an unknown reason."
    flags.DEFINE_integer("retries", 1, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Check all runs and print their commands.", flag_values=values)
    flags.DEFINE_bool("collect", False, "Only write the table of the results so far.", flag_values=values)


def parse(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags, and the words after `--`.

    Raises:
      UserError: for mistakes in the command line.
    """
    _, values, backend_flags = common.parse(argv, define_flags, __doc__)
    common.require(values, sweep="configs/sweeps/NAME.py", workdir="runs/NAME")
    check_folder("workdir", values["workdir"].value)
    return values, backend_flags


def run(argv: list[str]) -> int:
    """Carries out a sweep; returns the exit code.

    Args:
      argv: the command line, `argv[0]` being the program.

    Raises:
      UserError: before anything is started.
    """
    values, backend_flags = parse(argv)
    workdir, backend = values["workdir"].value, values["backend"].value
    if backend_flags and backend == "local":
        raise UserError(f"{backend_flags[0]!r} after -- is only for --backend=slurm or tpu.")
    loaded = sweep_file.load(values["sweep"].value, workdir)
    runs = loaded.runs
    chosen = sweep_file.select(runs, values["only"].value)

    def tabulate() -> None:
        print(
            f"\n{sweep_table.write(runs, epath.Path(workdir), loaded.description)}\n\n{workdir}/results.csv has all columns."
        )
        if loaded.figure and sweep_figure.draw(loaded.figure, runs, epath.Path(workdir) / "results.png"):
            print(f"{workdir}/results.png is the figure.")

    sweep_runs.check(runs, sweep_runs.Stage.check)
    if values["collect"].value:
        tabulate()
        return 0
    sweep_runs.check(chosen, sweep_runs.Stage.check_places)
    todo = [one for one in chosen if one.status() not in ("done", "non-finite")]
    for one in chosen:
        if one.status() == "non-finite":
            print(
                f"{one.name}: skipped, because its loss became non-finite before; remove {one.records} to run it again."
            )
    print(f"{len(runs)} runs in the sweep, {len(chosen)} chosen, {len(todo)} to do.", flush=True)
    dry_run = values["dry_run"].value
    if todo and backend == "slurm":
        return _slurm(values, runs, todo, backend_flags)
    jobs = sweep_workers.local_jobs if backend == "local" else sweep_backends.tpu_jobs(backend_flags)
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


def _slurm(values: flags.FlagValues, runs: list, todo: list, backend_flags: list[str]) -> int:
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
        flags=backend_flags,
    )
    if values["dry_run"].value:
        print(script)
        return 0
    return slurm.submit(script, folder / "array.sh")


if __name__ == "__main__":
    common.main(run)
