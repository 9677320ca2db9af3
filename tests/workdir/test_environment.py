"""`environment.json`: an entry for each start, with code, versions and machine."""

import datetime
import shlex
import subprocess
import sys

from etils import epath
import jax
import pytest

from simclr_jax.workdir import environment

STARTED = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def test_each_start_has_one_entry(tmp_path):
    workdir = epath.Path(tmp_path)
    environment.record(workdir, STARTED)
    environment.record(workdir, STARTED)
    environment.record(workdir, STARTED + datetime.timedelta(hours=1))
    first, second = environment.read(workdir)
    assert first["started"] == "2026-01-02T03:04:05.000+00:00"
    assert second["started"] == "2026-01-02T04:04:05.000+00:00"
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow", "python"} <= first["versions"].keys()
    assert first["versions"]["jax"] == jax.__version__
    assert first["devices"] == {"kind": "cpu", "platform": "cpu", "count": jax.device_count()}
    assert first["command"] == shlex.join(sys.orig_argv)


def test_another_environment_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    environment.record(epath.Path(tmp_path), STARTED)
    environment.record(epath.Path(tmp_path), STARTED + datetime.timedelta(hours=1))
    assert not caplog.records
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    environment.record(epath.Path(tmp_path), STARTED + datetime.timedelta(hours=2))
    assert "JAX_ENABLE_X64 was unset, is 1." in caplog.text


def test_entries_of_other_versions_are_compared():
    entry = {"versions": {"jax": "0.9.0"}, "devices": {"kind": "TPU v4"}}
    now = {"versions": {"jax": "0.10.2"}, "devices": {"kind": "TPU v4"}, "variables": {"XLA_FLAGS": "--a"}}
    assert environment.differences(entry, now) == "jax was 0.9.0, is 0.10.2"
    assert environment.differences(entry, entry) == ""


@pytest.mark.parametrize("content", ["", "[{", "{}", "[3]", '["started"]', '[["started"]]', '[{"other": 1}]'])
def test_a_damaged_file_is_kept_aside(tmp_path, caplog, content):
    (tmp_path / "environment.json").write_text(content)
    with caplog.at_level("WARNING", "simclr_jax"):
        environment.record(epath.Path(tmp_path), STARTED)
    assert (tmp_path / "environment.damaged.json").read_text() == content
    assert "environment.json was damaged; it is kept as" in caplog.text
    assert len(environment.read(epath.Path(tmp_path))) == 1


def test_only_the_primary_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.distributed, "is_primary", lambda: False)
    environment.record(epath.Path(tmp_path), STARTED)
    assert environment.read(epath.Path(tmp_path)) == []


def test_git_says_the_commit_and_whether_files_differ(tmp_path):
    def run(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert environment.git(tmp_path) is None
    run("init")
    assert environment.git(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("1")
    run("add", "file")
    run("commit", "-m", "first")
    clean = environment.git(tmp_path)
    assert len(clean["commit"]) == 40
    assert not clean["dirty"]
    (tmp_path / "file").write_text("2")
    assert environment.git(tmp_path) == clean | {"dirty": True}
    (tmp_path / "below").mkdir()
    assert environment.git(tmp_path / "below") is None, "the checkout of something else"
