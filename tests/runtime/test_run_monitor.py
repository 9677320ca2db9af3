"""Watching a long run: profile, watchdog, step-time breakdown, compilation cache."""

import os
import subprocess
import sys
import time

from compile_flags import COMPILE_FLAGS
from etils import epath
from helpers import REPOSITORY
from helpers import TINY
import pytest

from simclr_jax.runtime import cli
from simclr_jax.workdir import metrics_file

pytestmark = pytest.mark.slow


def test_a_profile_of_some_steps(tmp_path, monkeypatch):
    """Also the accuracy in between, which is in the metrics of its steps."""
    monkeypatch.chdir(REPOSITORY)
    few = ("--config.epochs=0.3", "--profile_steps=3:4", "--config.evaluate_every_steps=3")
    cli.call("pretrain", *TINY, f"--workdir={tmp_path}", *few)
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 10_000
    lines = metrics_file.read(epath.Path(tmp_path / "metrics.jsonl"))
    tested = {line["step"]: line["test_top1"] for line in lines if "test_top1" in line}
    assert tested.keys() == {3, 6}
    evaluating = {line["step"] for line in lines if line["ms_evaluation"] > 0}
    assert evaluating == {3, 6}
    # The line of a step is written before its checkpoint, whose time is in the next line.
    assert {line["step"] for line in lines if line["ms_checkpoint"] > 0} == {4, 7}


HANG = """
import time
from simclr_jax.runtime import run_monitor
how = run_monitor.RunMonitor(hang_timeout=0.5, hang_exit={exit})
how.arm()
def waits_for_a_peer():
    time.sleep({seconds})
waits_for_a_peer()
print("went on")
how.disarm()
time.sleep({seconds})
"""


@pytest.mark.parametrize("hang_exit", [False, True])
def test_a_hang_shows_where(hang_exit):
    code = HANG.format(exit=hang_exit, seconds=1.2)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert "Timeout" in done.stderr
    assert "in waits_for_a_peer" in done.stderr
    assert done.returncode == (1 if hang_exit else 0)
    assert ("went on" in done.stdout) == (not hang_exit)
    if not hang_exit:
        assert 1 <= done.stderr.count("Timeout") <= 2, "none after disarm"


def test_compiled_programs_are_kept_in_the_workdir(tmp_path):
    command = [sys.executable, "-m", "simclr_jax.pretrain", *TINY, f"--workdir={tmp_path}", "--config.epochs=0.1"]
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=REPOSITORY, env=kept | {"XLA_FLAGS": COMPILE_FLAGS}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 300
    assert any(path.name.startswith("jit_pretrain_step") for path in (tmp_path / "compilation_cache").iterdir())
