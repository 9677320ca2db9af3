"""Workers, with a shell instead of the binaries; and the table of what they did."""

import csv
import json
import os
import re
import signal

import pytest
from sweeps import TEMPERATURES
from sweeps import call
from sweeps import load
from sweeps import written_config

from launch import sweep_workers
from simclr_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("at_repository")


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


def table_of(workdir):
    return list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))


def test_a_sweep_is_collected_resumed_and_extended(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_workers, "local_jobs", shell("case $0 in *0.5) exit 3;; esac; echo x >> tries; succeed"))
    workdir = tmp_path / "runs"
    assert call(f"--sweep={write(TEMPERATURES)}", f"--workdir={workdir}", "--workers=2") == 0
    printed = capsys.readouterr().out
    assert "2 runs in the sweep, 2 chosen, 2 to do" in printed
    table = table_of(workdir)
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
    assert [row["status"] for row in table_of(workdir)] == ["done", "done", "non-finite"]
    # Collecting starts nothing, and shows what is of another config as such.
    file = write(TEMPERATURES.replace("digits.py", "digits.py:epochs=7"))
    assert call(f"--sweep={file}", f"--workdir={workdir}", "--collect") == 0
    assert [row["status"] for row in table_of(workdir)] == [
        "other config",
        "other config",
    ]
    with pytest.raises(UserError, match="holds another run"):
        call(f"--sweep={file}", f"--workdir={workdir}")
