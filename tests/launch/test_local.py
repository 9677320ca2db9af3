"""The launcher of several processes on this machine: they do not outlive it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]

WORK = """
import signal, sys, time
def stop(*_):
    open(sys.argv[1], "a").write("stopped\\n")
    raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1], "a").write("started\\n")
time.sleep(600)
"""


def lines(path, count):
    """The lines of a file, once there are `count` of them."""
    for _ in range(300):
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process when its parent dies")
@pytest.mark.slow
def test_processes_end_with_a_launcher_that_is_killed(tmp_path):
    command = [
        sys.executable,
        "-m",
        "launch.local",
        "--num_processes=2",
        "--",
        sys.executable,
        "-c",
        WORK,
        tmp_path / "log",
    ]
    launcher = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.DEVNULL)
    assert lines(tmp_path / "log", 2) == ["started"] * 2
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert lines(tmp_path / "log", 4) == ["started"] * 2 + ["stopped"] * 2


def test_python_in_a_command_is_the_one_of_the_launcher(tmp_path):
    command = [sys.executable, "-m", "launch.local", "--num_processes=1", "--", "python", "-c"]
    code = f"import sys; open({str(tmp_path / 'python')!r}, 'w').write(sys.prefix)"
    elsewhere = os.environ | {"PATH": "/usr/bin:/bin"}  # the environment of the tests is not activated
    subprocess.run([*command, code], cwd=ROOT, check=True, env=elsewhere, stderr=subprocess.DEVNULL)
    assert (tmp_path / "python").read_text() == sys.prefix
