"""The runs of a sweep: the check of their commands, when they are done, and when they are other runs."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from sweeps import FIELD
from sweeps import RUN
from sweeps import TEMPERATURES
from sweeps import finish
from sweeps import load
from sweeps import yielding

from launch import common
from launch import sweep
from launch import sweep_runs
from simclr_jax import errors
from simclr_jax.errors import UserError
from simclr_jax.workdir import weights

pytestmark = pytest.mark.usefixtures("at_repository")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"run": RUN, "config.loss.temprature": 0.1},
            "run temprature=0.1, pretrain: .*did you mean 'loss.temperature'",
        ),
        (
            {"run": RUN, "config.batch_size": 0.5},
            "run batch_size=0.5, pretrain: config.batch_size is 0.5, but should be of type int or auto.",
        ),
        ({"run": RUN, "config.model.depth": 20}, "config.model.depth is 20, but must be one of 10, 18"),
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


@pytest.mark.slow
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


def test_torn_records_of_a_run_do_not_end_the_table_of_all(write, tmp_path, caplog):
    run = load(write, workdir=tmp_path)[0]
    for stage in run.stages:
        finish(stage)
    (run.stages[0].workdir / "results.json").write_text('{"top1": 0.')
    run.records.mkdir(parents=True, exist_ok=True)
    (run.records / "status.json").write_text('{"sta')
    assert run.status() == "unfinished"
    assert f"{run.stages[0].workdir}/results.json is damaged" in caplog.text


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


def test_an_evaluation_of_a_replaced_checkpoint_is_not_done(write, tmp_path, caplog):
    (run, _) = load(write, workdir=tmp_path / "runs")
    for stage in run.stages:
        finish(stage, seconds=1.0)
    checkpoint = run.stages[0].workdir / "checkpoints" / "9"
    checkpoint.mkdir(parents=True)
    sums, record = checkpoint / "checksums.json", run.stages[1].workdir / "data.json"
    sums.write_text('{"crc32": {"encoder/a": [3, 5]}}')
    record.write_text(json.dumps({"training images": {"images": 3}, "encoder": {"step": 9, "weights": None}}))
    assert run.status() == "done", "of a checkpoint without checksums nothing is compared"
    of_now = weights.of_files(checkpoint, "encoder")
    record.write_text(json.dumps({"training images": {"images": 3}, "encoder": of_now}))
    assert run.status() == "done"
    sums.write_text('{"crc32": {"encoder/a": [3, 6]}}')
    assert run.status() == "unfinished"
    assert f"{run.stages[1].workdir} is of weights that are no longer in {checkpoint}" in caplog.text
    assert [stage.results() is None for stage in run.stages] == [False, True]
