"""The command lines of all launchers: --help, mistakes, and `launch.local`, the launcher that needs no cluster."""

import importlib
import os
import shlex
import sys

from helpers import REPOSITORY
import pytest

from launch import common
from launch import local
from launch import slurm
from launch import sweep
from simclr_jax import errors
from simclr_jax.errors import UserError

LAUNCHERS = ("local", "slurm", "gke", "tpu_vm", "sweep")


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("word", ["--help", "-h", "--helpfull"])
def test_help_lists_the_flags_of_the_launcher(name, word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, word])
    with pytest.raises(SystemExit) as ended:
        common.main(importlib.import_module(f"launch.{name}").run)
    assert ended.value.code == 0
    printed, problems = capsys.readouterr()
    assert problems == ""
    assert f"python -m launch.{name}" in printed
    assert "  --dry_run  (default: False)\n      " in printed
    assert "flagfile" not in printed, "a flag of absl"


def test_a_bucket_that_cannot_be_reached_is_one_line(capsys):
    def run(argv):
        raise RuntimeError("Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve hostname'")

    with pytest.raises(SystemExit) as ended:
        common.main(run)
    assert ended.value.code == errors.StorageError.exit_code
    assert capsys.readouterr().err.startswith("error: the bucket cannot be reached: libcurl code 6")


def test_help_after_the_dashes_is_a_word_of_the_command():
    _, _, command = common.parse(["slurm", "--", "python", "--help"], slurm.define_flags, "")
    assert command == ["python", "--help"]


def test_help_lists_the_values_that_a_flag_may_have(capsys):
    with pytest.raises(SystemExit):
        sweep.run(["sweep", "--help"])
    assert "Where the runs are executed. One of local, slurm, tpu." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--num_processes is missing, as in --num_processes=2"),
        (("--num_processes=2",), "no command: put it after --"),
        (("--num_process=2", "--", "true"), "unknown flag --num_process .did you mean 'num_processes'"),
        (("--num_processes=0", "--", "true"), "--num_processes=0: should be a positive integer"),
        (("--num_processes=two", "--", "true"), "--num_processes=two: should be "),
        (("--num_processes=2", "true"), "unknown argument 'true': .* the command to run comes after a `--`"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        local.run(["local", *arguments])


def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["local", "--num_processes=2"])
    with pytest.raises(SystemExit) as ended:
        common.main(local.run)
    assert ended.value.code == errors.EXIT_USER_ERROR
    assert capsys.readouterr().err.splitlines() == [
        "error: no command: put it after --, as in `-- python -m simclr_jax.pretrain ...`."
    ]


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    values, _ = sweep.parse(["sweep", "--sweep=~/some.py", "--workdir=~/runs"])
    assert values["sweep"].value == f"{tmp_path}/some.py"
    assert values["workdir"].value == f"{tmp_path}/runs"
    values, _ = sweep.parse(["sweep", "--sweep=some.py", "--workdir=gs://bucket/~/runs"])
    assert values["workdir"].value == "gs://bucket/~/runs"


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: it is a file, but has to be a folder"):
        sweep.parse(["sweep", "--sweep=some.py", f"--workdir={tmp_path / 'file'}"])


def test_a_dry_run_of_local_prints_a_command_for_each_process(capsys):
    assert local.run(["local", "--num_processes=2", "--devices_per_process=3", "--dry_run", "--", "echo", "a b"]) == 0
    first, second = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert first[-2:] == second[-2:] == ["echo", "a b"]
    assert "JAX_PROCESS_ID=0" in first
    assert {"JAX_PROCESS_ID=1", "JAX_NUM_PROCESSES=2", "JAX_PLATFORMS=cpu"} <= set(second)


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([75, 0], 75), ([1, 2], 2), ([-9, 3], 3), ([69, 0], 69), ([69, 1], 1), ([75, 134], 1)],
)
def test_one_exit_code_for_all_processes(codes, code):
    assert common.job_code(codes) == code


@pytest.mark.parametrize(("script", "code", "starts"), [("exit 2", 2, 1), ("exit 7", 1, 2), ("true", 0, 1)])
def test_local_restarts_what_may_succeed(script, code, starts, tmp_path, monkeypatch):
    monkeypatch.setattr(local.signal, "signal", lambda *_: None)
    command = ["sh", "-c", f"echo x >> {tmp_path}/$JAX_PROCESS_ID; {script}"]
    assert local.run(["local", "--num_processes=2", "--max_restarts=1", "--", *command]) == code
    assert [(tmp_path / name).read_text().count("x") for name in ("0", "1")] == [starts, starts]


def test_launchers_are_run_from_any_folder_that_has_the_project_on_its_path(tmp_path, monkeypatch):
    """The default sweep of the documentation names its config relative to the clone, or by name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.py").write_text(
        "def sweep():\n    yield {'run': 'pretrain --config=digits', 'config.seed': 1}\n", encoding="utf-8"
    )
    assert not os.path.exists("configs")
    assert REPOSITORY not in tmp_path.parents
    assert sweep.run(["sweep", "--sweep=some.py", "--workdir=W", "--dry_run"]) == 0
