"""Kill runs and damage checkpoints at random, and compare what comes out with undisturbed runs, bit for bit.

    python -m benchmarks.chaos --output=DIR --kills=200 --damages=500 --docs=docs

Pretraining in one process and in two, fine-tuning and an SGD linear probe of the digits are killed (SIGKILL) at random moments
and started again, until they are done. Of a job of two processes, either its launcher or one of them is killed. Then files of
the newest checkpoint of a finished run are damaged, one at a time: the run has to continue to the same result, an encoder
has to load with the same numbers or end with one line. Writes chaos_SEED.json to the output, and the tables of
docs/reliability.md. The same command continues where it stopped.
"""

import argparse
from collections.abc import Sequence
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

from benchmarks.damage import KINDS
from benchmarks.damage import damage
from benchmarks.damage import files_of
from benchmarks.harness import ROOT
from benchmarks.pages import filled

TINY: dict[str, object] = {
    "model.depth": 10,
    "model.width": 0.125,
    "data.image_size": 8,
    "batch_size": 64,
    "log_every_steps": 1,
    "checkpoint.every_steps": 3,
    "checkpoint.every_minutes": 0,
}
PRETRAIN: dict[str, object] = TINY | {"epochs": 2.0, "optimizer.warmup_epochs": 0.1}
TUNE: dict[str, object] = {"batch_size": 16, "log_every_steps": 1, "checkpoint.every_steps": 3}
JOBS: dict[str, tuple[str, dict[str, object], int]] = {
    "pretraining": ("pretrain", PRETRAIN | {"config": "configs/digits.py"}, 1),
    "pretraining, two processes": ("pretrain", PRETRAIN | {"config": "configs/digits.py"}, 2),
    "fine-tuning": ("finetune", TUNE | {"min_steps": 40, "epochs": 0.1, "label_fraction": 0.1}, 1),
    "linear probe (SGD)": (
        "linear_probe",
        TUNE | {"config": "configs/linear_probe.py:sgd", "epochs": 8.0, "label_fraction": 0.05},
        1,
    ),
}
KILLS_A_RUN = 5
# Not the same in two runs.
TIMED = re.compile(r"seconds|_second|^ms_|fraction|checkpoint|before")


def command_of(job: str, workdir: pathlib.Path, output: pathlib.Path) -> list[str]:
    """The command line of a job, as a user types it."""
    name, fields, processes = JOBS[job]
    words = [sys.executable, "-m", f"simclr_jax.{name}", f"--workdir={workdir}"]
    words.append(f"--compilation_cache={output / f'programs_{processes}'}")
    if name != "pretrain":
        words.append(f"--pretrained={output / 'pretraining' / 'undisturbed'}")
    words += [f"--{'' if key == 'config' else 'config.'}{key}={value}" for key, value in fields.items()]
    if processes > 1:
        launcher = [sys.executable, "-m", "launch.local", f"--num_processes={processes}", "--devices_per_process=1"]
        words = [*launcher, "--max_restarts=0", "--", *words]
    return words


def start(job: str, workdir: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
    """Starts a job; what it prints is added to WORKDIR.log."""
    log = pathlib.Path(f"{workdir}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": ""}
    with log.open("ab") as stderr:
        return subprocess.Popen(
            command_of(job, workdir, output), cwd=ROOT, env=environment, stdout=stderr, stderr=stderr
        )


def lines_of(workdir: pathlib.Path) -> list[dict]:
    """The metrics in a workdir and the folders below it, without timings."""
    found = []
    # Not by `rglob`, under which a running job renames its folders.
    for folder in (workdir, *sorted(workdir.glob("draw_*"))):
        path = folder / "metrics.jsonl"
        for text in path.read_bytes().splitlines() if path.exists() else ():
            try:
                line = json.loads(text)
            except ValueError:  # half a line, while the run writes it
                continue
            found.append({key: value for key, value in line.items() if not TIMED.search(key)})
    return found


def outcome(workdir: pathlib.Path) -> str:
    """A digest of all that a run has made: the arrays of its newest checkpoints, its metrics and results without timings."""
    import jax
    import orbax.checkpoint as ocp

    from simclr_jax.runtime import quiet

    digest = hashlib.sha256(json.dumps(lines_of(workdir), sort_keys=True).encode())
    for folder in sorted(workdir.rglob("checkpoints")):
        newest = max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        digest.update(newest.name.encode())
        for part in sorted(path.name for path in newest.iterdir() if (path / "_METADATA").exists()):
            # Each part is read alone, of which Orbax warns.
            with quiet.errors_only(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                tree = checkpointer.metadata(newest / part).item_metadata.tree
                kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                arrays = checkpointer.restore(newest / part, args=ocp.args.PyTreeRestore(restore_args=kinds))
            for leaf in jax.tree.leaves(arrays):
                digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@functools.cache
def undisturbed(job: str, output: pathlib.Path) -> tuple[pathlib.Path, str]:
    """The workdir of a run that nobody disturbs, and its outcome."""
    workdir = output / job.replace(" ", "_").replace(",", "") / "undisturbed"
    if not (workdir / "results.json").exists():
        code = start(job, workdir, output).wait()
        if code:
            raise SystemExit(f"{job} ended with exit code {code}: see {workdir}.log")
    return workdir, outcome(workdir)


def kill(process: subprocess.Popen, log: pathlib.Path, processes: int, rng: random.Random) -> None:
    """Kills a job; of several processes one, or their launcher. Returns when all are gone."""
    victims = [process.pid]
    if processes > 1:
        started = re.findall(r"process ids ([\d, ]+)", log.read_text(errors="replace"))[-1]
        victims += [int(pid) for pid in started.split(",")]
    with contextlib.suppress(ProcessLookupError):  # it is done
        os.kill(rng.choice(victims), signal.SIGKILL)
    process.wait()
    while any(map(lives, victims[1:])):
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Whether a process runs. One that has ended, and whose end nobody has asked for, does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_run(job: str, kills: int, number: int, output: pathlib.Path, rng: random.Random) -> dict:
    """One run that is killed some times and then left alone."""
    undisturbed("pretraining", output)  # whose encoder the other jobs take
    whole, expected = undisturbed(job, output)
    total = len(lines_of(whole))
    workdir = whole.parent / f"killed_{number}"
    log = pathlib.Path(f"{workdir}.log")
    shutil.rmtree(workdir, ignore_errors=True)
    done = 0
    for _ in range(kills):
        process = start(job, workdir, output)
        target = rng.randint(min(len(lines_of(workdir)) + 1, total), total)
        while process.poll() is None and len(lines_of(workdir)) < target:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break
        kill(process, log, JOBS[job][2], rng)
        done += 1
    code = start(job, workdir, output).wait()
    same = code == 0 and outcome(workdir) == expected
    if same:
        shutil.rmtree(workdir)
    return {"job": job, "kills": done, "code": code, "same": same}


def damaged(number: int, output: pathlib.Path, rng: random.Random) -> dict:
    """Damages a file of the newest checkpoint of a copy; then an evaluation or, every fifth time, the run itself."""
    import jax

    import simclr_jax
    from simclr_jax.errors import UserError

    whole, expected = undisturbed("pretraining", output)
    copy = output / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    newest = max((copy / "checkpoints").iterdir(), key=lambda path: int(path.name))
    file, kind = rng.choice(files_of(newest)), rng.choice(KINDS)
    damage(file, kind, np.random.default_rng(rng.randrange(2**31)))
    found = {"file": str(file.relative_to(newest)), "damage": kind}
    if number % 5 == 4:
        # In a separate process, as the undisturbed run: another number of devices would round otherwise.
        same = start("pretraining", copy, output).wait() == 0 and outcome(copy) == expected
        return found | {"what": "the run continues", "result": "same" if same else "WRONG"}
    wanted = jax.tree.leaves(simclr_jax.load(whole).variables)
    try:
        found_in = jax.tree.leaves(simclr_jax.load(copy).variables)
        result = "same" if all(map(np.array_equal, found_in, wanted)) and len(found_in) == len(wanted) else "WRONG"
    except UserError as error:
        result = "a line" if "\n" not in str(error) else "WRONG"
    except Exception as error:
        result = f"WRONG: {type(error).__name__}"
    return found | {"what": "the encoder is loaded", "result": result}


def table(records: list[dict]) -> str:
    """The tables of docs/reliability.md."""
    lines = ["| job | runs | kills | ended with the same bits |", "| --- | --- | --- | --- |"]
    for job in JOBS:
        mine = [record for record in records if record.get("job") == job]
        lines.append(
            f"| {job} | {len(mine)} | {sum(one['kills'] for one in mine)} | {sum(one['same'] for one in mine)} of {len(mine)} |"
        )
    lines += ["", "| after damage to a checkpoint | times | right numbers | refused in a line | wrong or a traceback |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for what in ("the run continues", "the encoder is loaded"):
        found = [str(record["result"]) for record in records if record.get("what") == what]
        same, line = found.count("same"), found.count("a line")
        lines.append(f"| {what} | {len(found)} | {same} | {line} | {len(found) - same - line} |")
    return "\n".join(lines)


def run(output: pathlib.Path, kills: int, damages: int, seed: int, jobs: Sequence[str] = tuple(JOBS)) -> list[dict]:
    """All kills and damages, or those that an earlier call has left over; returns a record of each run and damage."""
    path = output / f"chaos_{seed}.json"
    records = json.loads(path.read_text()) if path.exists() else []

    def keep(record: dict) -> None:
        records.append(record)
        path.write_text(json.dumps(records, indent=1))
        print(json.dumps(record), flush=True)

    output.mkdir(parents=True, exist_ok=True)
    while (done := sum(record.get("kills", 0) for record in records)) < kills:
        number = sum("job" in record for record in records)
        rng = random.Random(f"{seed} kill {number}")
        keep(killed_run(jobs[number % len(jobs)], min(KILLS_A_RUN, kills - done), number, output, rng))
    while (number := sum("damage" in record for record in records)) < damages:
        keep(damaged(number, output, random.Random(f"{seed} damage {number}")))
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="where everything is kept")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=pathlib.Path, help="whose reliability.md gets the table")
    arguments = parser.parse_args()
    records = run(arguments.output.resolve(), arguments.kills, arguments.damages, arguments.seed)
    text = table(records)
    print(text)
    if arguments.docs:
        page = arguments.docs / "reliability.md"
        page.write_text(filled(page.read_text(), text, "chaos"))
    bad = [record for record in records if not record.get("same", True) or record.get("result", "").startswith("WRONG")]
    sys.exit(f"{len(bad)} came out wrong: {bad}" if bad else 0)


if __name__ == "__main__":
    main()
