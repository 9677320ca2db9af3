"""The same command may run in a workdir again; the results of another run are never replaced."""

import json
import shutil

from etils import epath
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.training import occupied


def config_of(kind, **fields):
    config = config_lib.defaults(kind).copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict({"data.reduced_decode": True} | fields)
    return config


def fill(workdir, config, results="results.json", weights=None):
    """A workdir of a finished run."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(saved_config.to_json(config))
    if results:
        (workdir / results).parent.mkdir(exist_ok=True)
        (workdir / results).write_text("{}")
    if weights:
        record = {"training images": {"images": 3}, "encoder": {"step": 9, "weights": weights}}
        (workdir / "data.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (kind, other)
        for kind in config_lib.KINDS
        for other in ("pretrain", "knn", "linear_probe", "finetune")
        if kind != other
    ],
)
def test_another_kind_is_refused(tmp_path, kind, other):
    workdir = epath.Path(tmp_path / "run")
    fill(workdir, config_of(other), results=None)  # even if it has saved nothing but its config
    with pytest.raises(
        UserError, match=rf"--workdir=\S*run holds a run of simclr_jax.{other}, .*take another --workdir"
    ):
        occupied.check(workdir, config_of(kind))
    with pytest.raises(UserError, match="holds a run of"):
        occupied.check_kind(workdir, None)


@pytest.mark.parametrize("kind", config_lib.KINDS)
@pytest.mark.parametrize("results", ["results.json", "draw_0/results.json"])
def test_the_same_run_may_go_on_and_another_one_not(tmp_path, kind, results):
    workdir = epath.Path(tmp_path / "run")
    assert not occupied.check(workdir, config_of(kind))
    fill(workdir, config_of(kind), results)
    assert not occupied.check(workdir, config_of(kind))
    assert not occupied.check(workdir, config_of(kind, log_every_steps=7) if kind == "pretrain" else config_of(kind))
    with pytest.raises(
        UserError, match=r"(?s)run holds another run:.*config.seed is 7, but that run has .*another --w"
    ):
        occupied.check(workdir, config_of(kind, seed=7))
    (workdir / results).unlink()  # what has saved nothing may be corrected
    assert not occupied.check(workdir, config_of(kind, seed=7))


def test_a_later_checkpoint_of_the_same_run_may_be_evaluated_again(tmp_path, caplog):
    workdir = epath.Path(tmp_path / "knn")
    fill(workdir, config_of("knn", pretrained="/runs/a/checkpoints/9"))
    assert not occupied.check(workdir, config_of("knn", pretrained="/runs/a/checkpoints/9"))
    with caplog.at_level("INFO", logger="simclr_jax"):
        assert occupied.check(workdir, config_of("knn", pretrained="/runs/a/checkpoints/10"))
    assert "has the results of /runs/a/checkpoints/9: those of /runs/a/checkpoints/10 replace them" in caplog.text
    for other in ("/runs/a/checkpoints/8", "/runs/b/checkpoints/10", None):
        with pytest.raises(UserError, match="config.pretrained is "):
            occupied.check(workdir, config_of("knn", pretrained=other))
    with pytest.raises(UserError, match="config.neighbours is 3"):
        occupied.check(workdir, config_of("knn", pretrained="/runs/a/checkpoints/10", neighbours=3))
    # A training goes on from the encoder that it had.
    fill(epath.Path(tmp_path / "tuned"), config_of("finetune", pretrained="/runs/a/checkpoints/9"))
    with pytest.raises(UserError, match="config.pretrained is "):
        occupied.check(epath.Path(tmp_path / "tuned"), config_of("finetune", pretrained="/runs/a/checkpoints/10"))


def test_known_weights_tell_encoders_apart_wherever_they_are(tmp_path):
    workdir = epath.Path(tmp_path / "knn")
    fill(workdir, config_of("knn", pretrained="/runs/a/checkpoints/9"), weights="1f")
    assert not occupied.check(workdir, config_of("knn", pretrained="/moved/a/checkpoints/9"))


def test_a_part_of_a_run_is_no_workdir(tmp_path):
    fill(tmp_path / "run", config_of("linear_probe"))
    for part in ("draw_0", "checkpoints/9", "draw_0/knn"):
        with pytest.raises(UserError, match=r"is a part of the run in \S*run: take another"):
            occupied.check(epath.Path(tmp_path / "run" / part), config_of("knn"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model": "another program"}')
    assert not occupied.check(epath.Path(tmp_path / "mine" / "grid" / "a"), config_of("knn"))
    with pytest.raises(
        UserError, match=r"config.json is damaged \(not a config of this program.*take another --workdir"
    ):
        occupied.check(epath.Path(tmp_path / "mine"), config_of("knn"))


@pytest.mark.slow
@pytest.mark.usefixtures("at_repository")
def test_an_evaluation_in_the_workdir_of_another_run_changes_nothing(tmp_path, digits_run):
    shutil.copytree(digits_run, tmp_path / "a")
    shutil.copytree(digits_run, tmp_path / "b")

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}

    def call(command, workdir, *words):
        return cli.call(command, f"--pretrained={tmp_path}/a", f"--workdir={tmp_path}/{workdir}", *words)

    first = call("knn", "near")
    before = files()
    for command, workdir, *words in [("knn", "b"), ("linear_probe", "near"), ("knn", "near", "--config.neighbours=3")]:
        with pytest.raises(UserError, match=r"holds a run of simclr_jax\.|holds another run"):
            call(command, workdir, *words)
    with pytest.raises(UserError, match="holds a run of simclr_jax.knn"):
        cli.call("verdict", f"--pretrained={tmp_path}/a", f"--workdir={tmp_path}/near")
    with pytest.raises(UserError, match="holds a run of simclr_jax.knn"):
        cli.call("preview", "--config=digits", f"--workdir={tmp_path}/near")
    assert files() == before
    assert call("knn", "near")["top1"] == first["top1"]
    record = tmp_path / "near" / "data.json"
    text = record.read_text()
    for digest in ("weights", "values"):  # of the files, and of the arrays
        text = text.replace(first["data"]["encoder"][digest], "of another one")
    record.write_text(text)
    with pytest.raises(UserError, match="near is a run on other data: encoder: it has other weights"):
        call("knn", "near")
    accepted = call("knn", "near", "--accept_new_data")
    assert accepted["data"]["before"][0]["encoder"]["weights"] == "of another one"
