"""One run at a time in a workdir, on a file system and in a bucket."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import lock

HOLD = """
import sys, time
from etils import epath
from simclr_jax.runtime import lock
with lock.held(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_one_is_dead(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"run is in use by process {first.pid} on .*take another"):
            lock.held(workdir).__enter__()
        os.kill(first.pid, signal.SIGKILL)
    with lock.held(workdir):
        assert json.loads((workdir / lock.NAME).read_text())["pid"] == os.getpid()


def test_runs_one_after_the_other_are_fine_and_an_unused_workdir_is_gone(tmp_path):
    workdir = epath.Path(tmp_path / "a" / "run")
    with pytest.raises(ValueError, match="config"), lock.held(workdir):
        raise ValueError("config")
    assert not workdir.exists()
    with lock.held(workdir):
        (workdir / "results.json").write_text("{}")
    with lock.held(workdir):
        pass
    assert (workdir / "results.json").exists()


def test_a_new_workdir_that_was_moved_away_hides_no_error(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    with lock.held(workdir):
        workdir.rename(tmp_path / "moved")
    assert (tmp_path / "moved").exists()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that is treated as a bucket, with short leases."""
    monkeypatch.setattr(lock, "_has_locks", lambda path: False)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 1.0)
    return epath.Path(tmp_path)


def test_a_lease_that_is_renewed_refuses_a_second_run(bucket):
    with lock.held(bucket), pytest.raises(UserError, match="is in use by process"):
        lock.held(bucket).__enter__()
    assert not (bucket / lock.NAME).exists()


def test_a_lease_of_a_dead_owner_is_waited_for_and_taken(bucket, caplog):
    caplog.set_level(logging.INFO, "simclr_jax")
    (bucket / lock.NAME).write_bytes(lock._me("dead"))
    began = time.monotonic()
    with lock.held(bucket):
        assert time.monotonic() - began > 0.5
        assert b"dead" not in (bucket / lock.NAME).read_bytes()
    assert "Waiting for whether that run still renews its lease" in caplog.text
    assert not any(thread.name == "lease of the workdir" for thread in threading.enumerate())


def test_what_is_no_lease_holds_nothing(bucket):
    (bucket / lock.NAME).write_text("x")
    with lock.held(bucket):
        pass
