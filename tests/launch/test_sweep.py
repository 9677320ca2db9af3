"""Sweeps: naming, checks, resuming, tables, workers, job arrays. A real one is at the end."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from helpers import COMPILE_FLAGS
from helpers import REPOSITORY
import pytest

from launch import common
from launch import sweep
from launch import sweep_file
from launch import sweep_runs
from launch import sweep_table
from launch import sweep_workers
from simclr_jax import errors
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError

TEMPERATURES = """
'''Temperatures.'''
def sweep():
    for temperature in (0.1, 0.5):
        yield {
            "run": "pretrain --config=configs/digits.py",
            "config.loss.temperature": temperature,
            "then": {"knn": "knn --config.neighbours=5"},
        }
"""


@pytest.fixture(autouse=True)
def at_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def write(tmp_path):
    """`write(text)`: a sweep file, as the value of --sweep."""

    def write(text):
        (tmp_path / "some.py").write_text(text)
        return str(tmp_path / "some.py")

    return write


def load(write, text=TEMPERATURES, workdir="W"):
    return sweep_file.load(write(text), str(workdir)).runs


def yielding(**item):
    return f"def sweep():\n    yield {item!r}\n"


def written_config(stage):
    """The config.json that the binary would write."""
    config = stage.config.copy_and_resolve_references()
    if stage.binary != "pretrain":
        config.pretrained = str(stage.workdir.parent / "pretrain" / "checkpoints" / "9")
        config.data.update(source="digits", train_split="train", image_size=16)
    return saved_config.to_json(config)


def finish(stage, top1=0.5, **results):
    """As if the binary had run."""
    stage.workdir.mkdir(parents=True)
    (stage.workdir / "config.json").write_text(written_config(stage))
    (stage.workdir / "results.json").write_text(json.dumps({"n": 360, "top1": top1, "draws": []} | results))


# The sweep file.


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"config.loss.normalize": True, "config.loss.temperature": 0.05}, "normalize=true,temperature=0.05"),
        ({"config.optimizer.name": "sgd", "config.data.name": "cifar10"}, "optimizer.name=sgd,data.name=cifar10"),
        ({"config.epochs": 100.0, "config.label_seeds": (0, 1)}, "epochs=100,label_seeds=0_1"),
        ({"config.optimizer.weight_decay": 1e-6}, "weight_decay=1e-06"),
    ],
)
def test_names_are_readable(overrides, name):
    assert sweep_file.name_of(overrides) == name


def test_names_are_unique_and_fit_a_file_system():
    names = [sweep_file.name_of({"config.data.root": root}) for root in ("a/b", "a-b", "a b", "x" * 300, "x" * 299)]
    assert names[1] == "root=a-b"
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"root=[-\w.~]{,110}", name) for name in names)


def test_a_dict_becomes_commands(write):
    first, second = load(write)
    pretrain, knn = first.stages
    assert pretrain.command("python") == [
        *("python", "-m", "simclr_jax.pretrain", "--config=configs/digits.py", "--config.loss.temperature=0.1"),
        *("--compilation_cache=W/compilation_cache", "--workdir=W/temperature=0.1/pretrain"),
    ]
    assert knn.command("python")[3:] == [
        *("--config.neighbours=5", "--pretrained=W/temperature=0.1/pretrain"),
        *("--compilation_cache=W/compilation_cache", "--workdir=W/temperature=0.1/knn"),
    ]
    assert second.name == "temperature=0.5"
    (run,) = load(write, yielding(run=f"{RUN} --compilation_cache=/fast", **FIELD))
    assert [flag for flag in run.stages[0].flags if "cache" in flag] == ["--compilation_cache=/fast"]
    # Values arrive as what they are: what the flags are parsed to is what the sweep said.
    item = {
        "run": "finetune --config.init=random",
        "config.label_seeds": (3,),
        "config.augment.crop_area": (0.2, 1.0),
        "config.optimizer.nesterov": False,
        "config.data.root": "a folder, quoted 'so'",
    }
    (run,) = load(write, yielding(**item))
    config = run.stages[0].config
    assert (config.label_seeds, config.augment.crop_area) == ((3,), (0.2, 1.0))
    assert (config.optimizer.nesterov, config.data.root) == (False, "a folder, quoted 'so'")


def test_numpy_values_and_arguments(write):
    text = """
import numpy as np
def sweep(arg="2"):
    for rate in np.geomspace(0.1, 1.0, int(arg)):
        yield {"run": "pretrain --config=configs/digits.py", "config.optimizer.learning_rate": rate}
"""
    assert [run.name for run in load(write, text)] == ["learning_rate=0.1", "learning_rate=1"]
    assert len(sweep_file.load(write(text) + ":5", "W").runs) == 5


RUN = "pretrain --config=configs/digits.py"
FIELD = {"config.loss.temperature": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no function sweep"),
        ("def sweep():\n    return []", "yields no runs"),
        ("def sweep():\n    yield 1 / 0", "some.py, line 2: ZeroDivisionError"),
        ("def sweep(:", "some.py, line .: SyntaxError"),
        (yielding(**FIELD), "run 0: 'run' is missing"),
        (yielding(run=RUN), "run 0: no field sets this run apart"),
        (yielding(run="pretrian", **FIELD), "did you mean 'pretrain'"),
        (yielding(run="pretrain", **FIELD), "'pretrain' has no --config"),
        (yielding(run=RUN + " --workdir=x", **FIELD), "has a --workdir"),
        (yielding(run=RUN, temperature=0.1), "'temperature' is none of"),
        (yielding(run=RUN, **{"config.data.root": None}), "config.data.root is None"),
        (yielding(run=RUN, then={"pretrain": "knn"}, **FIELD), "cannot name a folder"),
        (yielding(run=RUN, then={"a/b": "knn"}, **FIELD), "cannot name a folder"),
        (yielding(run=RUN, then={"again": RUN}, **FIELD), "evaluations only"),
        (yielding(run="knn", then={"more": "knn"}, **FIELD), "'then' evaluates a pretrained encoder, but 'run' is knn"),
        (yielding(run=RUN + " '", **FIELD), "No closing quotation"),
        (TEMPERATURES.replace("(0.1, 0.5)", "(1, 1.0)"), "run 1: an earlier run has the same overrides, temperature=1"),
    ],
)
def test_mistakes_in_the_file_are_told(write, text, message):
    with pytest.raises(UserError, match=message):
        load(write, text)


# The check of all commands.


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"run": RUN, "config.loss.temprature": 0.1},
            "run temprature=0.1, pretrain: .*did you mean 'loss.temperature'",
        ),
        (
            {"run": RUN, "config.batch_size": 0.5},
            "run batch_size=0.5, pretrain: --config.batch_size=0.5: should be of type int",
        ),
        ({"run": RUN, "config.model.depth": 20}, "config.model.depth is 20, but must be one of 18"),
        ({"run": RUN + ":epoch=3", **FIELD}, "no argument 'epoch'"),
        (
            {"run": RUN, **FIELD, "then": {"near": "knn --config.k=3"}},
            "run temperature=0.1, near: --config.k=3: .*does not exist",
        ),
        ({"run": "finetune", "config.label_fraction": 0.1}, "--pretrained is missing"),
        ({"run": "finetune --pretrained=/nowhere", "config.label_fraction": 0.1}, "/nowhere does not exist"),
    ],
)
def test_all_runs_are_checked_before_one_starts(write, tmp_path, item, message, capsys, monkeypatch):
    text = f"def sweep():\n    yield {dict(run=RUN, **FIELD, **{'config.seed': 1})!r}\n    yield {item!r}\n"
    monkeypatch.setattr(sys, "argv", ["sweep", f"--sweep={write(text)}", f"--workdir={tmp_path / 'runs'}"])
    with pytest.raises(SystemExit) as ended:
        common.main(sweep.run)
    assert ended.value.code == errors.EXIT_USER_ERROR
    printed = capsys.readouterr().err
    assert re.search(f"^error: .*{message}", printed)
    assert printed.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_check_starts_no_device(tmp_path):
    """Nor imports TensorFlow: it is quick."""
    code = (
        "from launch import sweep; import sys\n"
        f"sweep.run(['sweep', '--sweep=configs/sweeps/digits_temperature.py', '--workdir={tmp_path}/w', '--dry_run'])\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends and 'tensorflow' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.count("python -m simclr_jax.pretrain") == 6
    assert printed.count("python -m simclr_jax.linear_probe") == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits_temperature", 6),
        ("digits_temperature:seeds=3,epochs=2", 18),
        ("batch_size:epochs=200", 12),
        ("batch_size:recipe=configs/cifar10_small.py,epochs=10,batches=64 128,scalings=sqrt,seeds=2", 4),
        ("semi_supervised:configs,recipe=configs/digits_finetune.py,draws=4", 16),
        ("semi_supervised:configs,fractions=0.01,draws=2,scratch=false,rate=0.1,batch=64,steps=300", 2),
        ("transformations:configs", 2),
        ("composition", 28),
        (
            "composition:recipe=configs/cifar10_small.py:size=20,probe=lbfgs,epochs=2,folder=configs,"
            "ops=crop color blur,seeds=2",
            12,
        ),
        ("losses", 5),
        ("temperature:recipe=configs/cifar10_small.py,seeds=2", 12),
        ("heads", 9),
        ("transfer:configs", 10),
        ("transfer:configs,datasets=dtd voc2007,protocol=finetune,init=random", 2),
        ("epochs:lengths=1 2,batches=64 128,recipe=configs/cifar10_small.py", 4),
        ("network_size:depths=18 34,recipe=configs/cifar10_small.py", 6),
        ("colour_strength:supervised_epochs=5,supervised_rate=2", 5),
    ],
)
def test_the_sweeps_that_come_with_this_are_right(name, count):
    file, colon, arg = name.partition(":")
    loaded = sweep_file.load(f"configs/sweeps/{file}.py{colon}{arg}", "W")
    description, runs = loaded.description, loaded.runs
    sweep_runs.check(runs, sweep_runs.Stage.check)
    assert len(runs) == count
    assert f"python -m launch.sweep --sweep=configs/sweeps/{file}.py" in description.replace(
        "--workdir=runs/digits_semi ", ""
    )


def test_every_sweep_file_is_tested_here():
    names = {path.stem for path in pathlib.Path("configs/sweeps").glob("*.py")} - {"common"}
    (mark,) = (mark for mark in test_the_sweeps_that_come_with_this_are_right.pytestmark if mark.name == "parametrize")
    assert names == {name.partition(":")[0] for name, _ in mark.args[1]}


def test_the_scaling_in_the_config_file_and_in_the_overrides_agree():
    for run in sweep_file.load("configs/sweeps/batch_size.py", "W").runs:
        optimizer = run.stages[0].config.optimizer
        assert optimizer.learning_rate == {"linear": 0.3, "sqrt": 0.075}[optimizer.scaling]


# Selecting, resuming, refusing.


def test_only(write):
    text = """
def sweep():
    for seed in range(3):
        for temperature in (0.1, 0.15):
            yield {"run": "pretrain --config=x", "config.loss.temperature": temperature, "config.seed": seed}
    yield {"run": "pretrain --config=x", "config.loss.temperature": 0.1}
"""
    runs = load(write, text)

    def names(*patterns):
        return [run.name for run in sweep_file.select(runs, list(patterns))]

    assert len(names()) == 7
    assert names("temperature=0.1") == ["temperature=0.1"]  # a name, and so no other of its kind
    assert names("seed=1") == ["temperature=0.1,seed=1", "temperature=0.15,seed=1"]
    assert names("seed=1,temperature=0.15", "temperature=0.1?,seed=2") == [
        "temperature=0.15,seed=1",
        "temperature=0.15,seed=2",
    ]
    with pytest.raises(UserError, match="--only=seed=7 is no run of this sweep. Its runs: temperature=0.1,seed=0 "):
        names("seed=7")


def test_a_stage_is_done_when_its_results_and_its_config_are_there(write, tmp_path):
    first, second = load(write, workdir=tmp_path)
    assert first.status() == "not started"
    finish(first.stages[0])
    assert first.status() == "unfinished"
    finish(first.stages[1])
    assert (first.status(), second.status()) == ("done", "not started")
    sweep_runs.check([first, second], sweep_runs.Stage.check_places)
    # The same folder, but not the same run: a config argument has changed in the sweep file.
    changed = load(write, TEMPERATURES.replace("digits.py", "digits.py:epochs=7"), tmp_path)
    assert changed[0].status() == "other config"
    with pytest.raises(
        UserError, match=r"(?s)temperature=0.1/pretrain holds another run.*config.epochs is 7.0, but .* 60.0"
    ):
        sweep_runs.check(changed, sweep_runs.Stage.check_places)
    changed = load(write, TEMPERATURES.replace("neighbours=5", "neighbours=6"), tmp_path)
    with pytest.raises(UserError, match=r"(?s)temperature=0.1/knn holds another run.*config.neighbours is 6, but .* 5"):
        sweep_runs.check(changed, sweep_runs.Stage.check_places)
    # What changes no number may change.
    same = load(write, TEMPERATURES.replace("digits.py", "digits.py --config.log_every_steps=1"), tmp_path)
    assert same[0].status() == "done"


def test_another_checkpoint_is_another_run(write, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    def runs(pretrained):
        return load(write, yielding(run=f"finetune --pretrained={pretrained}", **{"config.seed": 1}), tmp_path)

    (run,) = runs(tmp_path / "a")
    finish(run.stages[0])
    path = pathlib.Path(run.stages[0].workdir) / "config.json"
    config = json.loads(path.read_text()) | {"pretrained": str(tmp_path / "a" / "checkpoints" / "9")}
    path.write_text(json.dumps(config))
    assert run.status() == "done"
    assert runs(tmp_path / "a" / "checkpoints" / "9")[0].status() == "done"
    assert "config.pretrained is" in runs(tmp_path / "b")[0].stages[0].disagreements()[0]


# Workers, with a shell instead of the binaries.


def shell(script):
    """Jobs that run a shell script for every stage, in its folder; `succeed` in it leaves results."""

    def jobs(run):
        for stage in run.stages:
            (run.records / stage.name).mkdir(parents=True, exist_ok=True)
            config = run.records / f"{stage.name}.json"
            config.write_text(written_config(stage))
            begin = f"cd {stage.workdir}; cp {config} config.json; succeed() {{ echo '{{\"top1\": 0.25}}' > results.json; }}\n"
            yield sweep_workers.Job(["sh", "-c", begin + script, run.name], (stage,))

    return jobs


def work(runs, script, workers=1, retries=1):
    said = []
    shares = [sweep_workers.WorkerShare()] * workers
    found = sweep_workers.Workers(shares, retries=retries, jobs=shell(script), say=said.append).work(runs)
    return found, "\n".join(said)


def test_a_failing_run_does_not_stop_the_others(write, tmp_path):
    runs = load(write, workdir=tmp_path)
    script = "case $0 in *0.1) echo try >> tries; echo the reason >&2; exit 9;; *) succeed;; esac"
    outcomes, said = work(runs, script, retries=2)
    assert outcomes == ["failed", "done"]
    assert "pretrain ended with exit code 9; started again" in said
    assert re.search(r"(?s)ended with exit code 9. .*temperature=0.1/pretrain.log ends with:\n.*    the reason\n", said)
    assert (tmp_path / "temperature=0.1" / "pretrain" / "tries").read_text().count("try") == 3
    assert [run.status() for run in runs] == ["failed", "done"]
    log = (tmp_path / "temperature=0.1" / "pretrain.log").read_text()
    assert log.count("$ sh -c") == 3
    assert log.count("the reason\n") == 3
    # Mended, it is run again; what is done is not.
    assert work(runs[:1], "succeed")[0] == ["done"]
    assert runs[0].status() == "done"


@pytest.mark.parametrize(("code", "status"), [(2, "mistake"), (3, "non-finite")])
def test_what_would_end_in_the_same_way_is_not_retried(write, tmp_path, code, status):
    runs = load(write, workdir=tmp_path)[:1]
    outcomes, said = work(runs, f"echo x >> tries; exit {code}", retries=5)
    assert (outcomes, runs[0].status()) == ([status], status)
    assert f"pretrain ended with exit code {code}" in said
    assert (tmp_path / "temperature=0.1" / "pretrain" / "tries").read_text() == "x\n"
    assert not (tmp_path / "temperature=0.1" / "knn" / "tries").exists()


def test_preempted_runs_continue_and_other_evaluations_go_on(write, tmp_path):
    text = TEMPERATURES.replace('{"knn"', '{"bad": "knn", "knn"')
    runs = load(write, text, tmp_path)[:1]
    script = "case $PWD in *bad) exit 1;; esac; echo x >> tries; [ $(wc -l < tries) -ge 4 ] || exit 75; succeed"
    outcomes, said = work(runs, script, retries=0)
    assert outcomes == ["failed"]
    assert said.count("was preempted; started again") == 6
    assert [stage.results() is None for stage in runs[0].stages] == [False, True, False]
    assert json.loads((tmp_path / runs[0].name / "status.json").read_text())["stage"] == "bad"


def test_success_without_results_is_a_failure(write, tmp_path):
    runs = load(write, workdir=tmp_path)[:1]
    outcomes, said = work(runs, "exit 0", retries=0)
    assert outcomes == ["failed"]
    assert "exit code 0, but without results.json" in said


def test_workers_work_at_the_same_time_and_are_told_to_stop(write, tmp_path):
    text = TEMPERATURES.replace("(0.1, 0.5)", "(0.1, 0.5, 1.0)")
    runs = load(write, text, tmp_path)
    # Both wait for the other one, so they can only end if they run at once; then one of them stops this process.
    script = f"""
touch {tmp_path}/started_$0
while [ $(ls {tmp_path}/started_* | wc -l) -lt 2 ]; do sleep 0.02; done
trap 'echo saved; exit 75' TERM
case $0 in *0.1) sleep 0.1; kill -TERM {os.getpid()};; esac
while :; do sleep 0.02; done
"""
    outcomes, said = work(runs, script, workers=2, retries=0)
    assert outcomes == ["stopped"] * 3
    assert said.count("the workers save and end") == 1
    assert [run.status() for run in runs] == ["unfinished", "unfinished", "not started"]
    assert "saved" in (tmp_path / "temperature=0.5" / "pretrain.log").read_text()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_another_launcher_works_on_is_left_alone(write, tmp_path):
    runs = load(write, workdir=tmp_path)[:1]
    runs[0].records.mkdir()
    with sweep_workers._locked(runs[0].records / ".lock"):
        outcomes, said = work(runs, "succeed")
    assert outcomes == ["elsewhere"]
    assert "another process works on it" in said


def test_the_machine_is_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    assert [share.cores for share in sweep_workers.shares(2, [])] == [(0, 1), (2, 3, 4)]
    assert [share.cores for share in sweep_workers.shares(6, [])] == [(0,), (0,), (1,), (2,), (3,), (4,)]
    assert sweep_workers.shares(1, []) == [sweep_workers.WorkerShare()]
    visible = [dict(share.variables)["CUDA_VISIBLE_DEVICES"] for share in sweep_workers.shares(2, ["0", "1", "2", "3"])]
    assert visible == ["0,1", "2,3"]
    with pytest.raises(UserError, match="would share 2 GPU"):
        sweep_workers.shares(3, ["0", "1"])
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert sweep_workers.gpus() == ["3", "5"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert sweep_workers.gpus() == []


# The command line, and the table.


def call(*arguments):
    return sweep.run(["sweep", *arguments])


def test_a_sweep_is_collected_resumed_and_extended(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_workers, "local_jobs", shell("case $0 in *0.5) exit 3;; esac; echo x >> tries; succeed"))
    workdir = tmp_path / "runs"
    assert call(f"--sweep={write(TEMPERATURES)}", f"--workdir={workdir}", "--workers=2") == 0
    printed = capsys.readouterr().out
    assert "2 runs in the sweep, 2 chosen, 2 to do" in printed
    table = list(csv.DictReader((workdir / "results.csv").open()))
    assert [row["status"] for row in table] == ["done", "non-finite"]
    assert [row["loss.temperature"] for row in table] == ["0.1", "0.5"]
    assert [row["knn.top1"] for row in table] == ["0.25", ""]
    assert "| 0.1 | done | 25.0 | 25.0 |\n| 0.5 | non-finite |  |  |\n" in (workdir / "results.md").read_text()
    # A new value: only its run is new. What was non-finite would be so again.
    file = write(TEMPERATURES.replace("(0.1, 0.5)", "(0.1, 0.3, 0.5)"))
    assert call(f"--sweep={file}", f"--workdir={workdir}") == 0
    printed = capsys.readouterr().out
    assert "3 runs in the sweep, 3 chosen, 1 to do" in printed
    assert "temperature=0.5: skipped, because its loss became non-finite before" in printed
    assert (workdir / "temperature=0.1" / "knn" / "tries").read_text() == "x\n"
    assert [row["status"] for row in csv.DictReader((workdir / "results.csv").open())] == ["done", "done", "non-finite"]
    # Collecting starts nothing, and shows what is of another config as such.
    file = write(TEMPERATURES.replace("digits.py", "digits.py:epochs=7"))
    assert call(f"--sweep={file}", f"--workdir={workdir}", "--collect") == 0
    assert [row["status"] for row in csv.DictReader((workdir / "results.csv").open())] == [
        "other config",
        "other config",
    ]
    with pytest.raises(UserError, match="holds another run"):
        call(f"--sweep={file}", f"--workdir={workdir}")


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


# SLURM, with stand-ins for its commands.


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


# The real thing.

REAL = """
def sweep():
    tiny = "--config.data.image_size=8 --config.model.width=0.125 --config.batch_size=64 --config.log_every_steps=1"
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
    rows = list(csv.DictReader((workdir / "results.csv").open()))
    assert [(row["loss.normalize"], row["status"], row["step"]) for row in rows] == [
        ("True", "done", "45"),
        ("False", "done", "45"),
    ]
    assert all(float(row["knn.top1"]) > 0.3 and float(row["loss"]) > 0 for row in rows)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "2 chosen, 0 to do" in again.stdout
