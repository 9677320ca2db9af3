"""Trackers: what they get, that a run continues there, and that their failures do not end a training."""

import json
import logging
import time

from etils import epath
import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import trackers
from simclr_jax.runtime.trackers import Trackers


class Recorder:
    """A tracker that keeps what it gets, and fails where it is asked to."""

    def __init__(self, fails=()):
        self.calls, self.fails = [], fails

    def _note(self, *call):
        if call[0] in self.fails:
            raise ConnectionError("the network is down")
        self.calls.append(call)

    def start(self, name, config, known, folder):
        self._note("start", name, config, known)
        return known or "id1"

    def log(self, step, metrics, part):
        self._note("log", step, metrics, part)

    def picture(self, name, path, step):
        self._note("picture", name, epath.Path(path).read_bytes(), step)

    def finish(self, results, code):
        self._note("finish", results, code)


@pytest.fixture
def recorder(monkeypatch):
    def install(*fails):
        made = Recorder(fails)
        monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda: made)
        return made, Trackers(["wandb"])

    return install


def test_a_tracker_gets_config_metrics_of_each_training_pictures_and_the_end(tmp_path, recorder):
    workdir = epath.Path(tmp_path / "probe")
    workdir.mkdir()
    made, ours = recorder()
    ours.start(workdir, {"epochs": 2})
    ours.start(workdir, {"epochs": 3})
    ours.log(workdir, 5, {"loss": 1.0})
    ours.log(workdir / "draw_0", 5, {"loss": 2.0})
    ours.picture("views", b"png", 0)
    ours.finish({"top1": 0.5, "draws": [], "init": "random"}, 0)
    assert made.calls == [
        ("start", "probe", {"epochs": 2}, None),
        ("log", 5, {"loss": 1.0}, ""),
        ("log", 5, {"loss": 2.0}, "draw_0"),
        ("picture", "views", b"png", 0),
        ("finish", {"top1": 0.5}, 0),
    ]
    made, ours = recorder()
    ours.start(workdir, {})
    ours.finish(None, 75)
    assert made.calls == [("start", "probe", {}, "id1"), ("finish", {}, 75)]


def test_a_failure_is_one_warning_and_the_other_tracker_goes_on(tmp_path, recorder, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "simclr_jax")
    recorder("log")
    other = Recorder()
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", lambda: other)
    ours = Trackers(["wandb", "mlflow"])
    ours.start(epath.Path(tmp_path), {})
    for step in range(3):
        ours.log(epath.Path(tmp_path), step, {})
    ours.finish({}, 0)
    assert [call[0] for call in other.calls] == ["start", "log", "log", "log", "finish"]
    (record,) = caplog.records
    assert (
        "--tracker=wandb failed and is left out from here on; the run goes on. (ConnectionError" in record.getMessage()
    )


def test_a_new_run_that_cannot_start_is_refused_and_one_that_continues_is_not(tmp_path, recorder, caplog):
    _, ours = recorder("start")
    with pytest.raises(UserError, match="--tracker=wandb: the run cannot start there: ConnectionError: the network"):
        ours.start(epath.Path(tmp_path), {})
    (tmp_path / "trackers.json").write_text(json.dumps({"wandb": "id1"}))
    _, ours = recorder("start")
    ours.start(epath.Path(tmp_path), {})
    ours.finish({}, 0)
    assert "left out" in caplog.text


def test_a_tracker_that_hangs_holds_up_the_end_for_a_while_only(tmp_path, recorder, monkeypatch, caplog):
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.1)
    made, ours = recorder()
    monkeypatch.setattr(made, "log", lambda *arguments: time.sleep(5))
    ours.start(epath.Path(tmp_path), {})
    began = time.monotonic()
    ours.log(epath.Path(tmp_path), 1, {})
    ours.finish({}, 0)
    assert time.monotonic() - began < 3
    assert "not everything was sent" in caplog.text


def test_names_are_checked_and_a_client_that_is_missing_is_named(monkeypatch):
    assert trackers.parse_names(["wandb,mlflow", "wandb"]) == ["wandb", "mlflow"]
    with pytest.raises(UserError, match="--tracker=wand: should be wandb or mlflow"):
        trackers.parse_names(["wand"])
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"needs wandb, which is not installed: pip install 'simclr_jax\[wandb\]'"):
        Trackers(["wandb"])


@pytest.mark.slow
def test_wandb_writes_its_files_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for code in (75, 0):  # interrupted, then continued
        ours = Trackers(["wandb"])
        ours.start(epath.Path(tmp_path), {"optimizer.name": "lars"})
        ours.log(epath.Path(tmp_path), 5, {"loss": 1.5})
        ours.log(epath.Path(tmp_path) / "draw_0", 5, {"loss": 2.5})
        ours.finish({"top1": 0.5}, code)
        time.sleep(1.1)  # the folder has the second in its name
    known = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    runs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{known}"))
    assert len(runs) == 2
    for run in runs:
        content = (run / f"run-{known}.wandb").read_bytes()
        assert b"draw_0/loss" in content
        assert b"top1" in content


@pytest.mark.slow
def test_mlflow_has_one_run_with_all_of_it(tmp_path, monkeypatch):
    from mlflow import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    workdir = epath.Path(tmp_path / "photos")
    workdir.mkdir()
    for code, status in ((75, "KILLED"), (0, "FINISHED")):
        ours = Trackers(["mlflow"])
        ours.start(workdir, {f"field{number}": number for number in range(120)})
        ours.log(workdir, 5, {"loss": 1.5, "nan": float("nan")})
        ours.log(workdir / "grid" / "learning_rate=0.1,weight_decay=0", 5, {"loss": 2.5})
        ours.picture("views", b"png", 0)
        ours.finish({"top1": 0.5}, code)
        client = tracking.MlflowClient()
        experiment = client.get_experiment_by_name("simclr_jax")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == status
    assert run.info.run_name == "photos"
    assert len(run.data.params) == 120
    assert run.data.metrics["loss"] == 1.5
    assert run.data.metrics["grid/learning_rate_0.1_weight_decay_0/loss"] == 2.5
    assert run.data.metrics["results/top1"] == 0.5
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["views.png"]
