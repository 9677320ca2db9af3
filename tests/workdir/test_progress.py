"""Progress of a run: never silent for long."""

import logging
import re
import threading
import time

from simclr_jax.runtime import heartbeat
from simclr_jax.workdir import progress
from simclr_jax.workdir.progress import Progress


def test_lines_come_by_time_also_between_logged_steps(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "simclr_jax")
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("pretrain", 0, 200, 64) as bar:
        for step in range(1, 201):
            now[0] += 60.0 if step == 1 else 7.0  # the first step compiles
            bar.update(step, 5.0 if step % 50 == 0 else None)
    lines = [record.getMessage() for record in caplog.records]
    assert 60 <= len(lines) <= 70, "one every three steps"
    assert "loss" not in lines[0]
    estimates = [line for line in lines if re.fullmatch(r"pretrain: about 22:03 at 9 images/s\.", line)]
    assert len(estimates) == 1, "after ten steps, once"
    lines.remove(estimates[0])
    assert lines[-1] == "pretrain: step 200 of 200, loss 5.0000, 9 images/s, 00:00 left"
    assert all(re.search(" 9 images/s", line) for line in lines), "without the time that compiling took"


def test_long_work_says_that_it_goes_on(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "simclr_jax")
    monkeypatch.setattr(heartbeat, "EVERY_SECONDS", 0.05)
    with heartbeat.working("compiling the step"):
        time.sleep(0.3)
    assert caplog.text.count("compiling the step ... 0 s") >= 2
    lines = len(caplog.records)
    time.sleep(0.15)
    assert len(caplog.records) == lines, "nothing after the end"


def test_long_work_on_items_says_how_many_are_done(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "simclr_jax")
    monkeypatch.setattr(heartbeat, "EVERY_SECONDS", 0.05)
    threads = threading.active_count()
    with heartbeat.working("choosing l2", 45, "values") as work:
        work.did()
        work.did(11)
        time.sleep(0.3)
    assert "choosing l2: 12 of 45 values, 0 s" in caplog.text
    assert threading.active_count() == threads


def test_short_work_says_nothing(caplog):
    caplog.set_level(logging.INFO, "simclr_jax")
    with heartbeat.working("compiling the step"):
        pass
    assert not caplog.records
