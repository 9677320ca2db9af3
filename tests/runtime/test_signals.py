"""Stop requests: SIGTERM and Ctrl-C save and end at once, however fast the steps are."""

import os
import signal
import subprocess
import sys
import time

from helpers import REPOSITORY
import pytest

from simclr_jax import errors

# Fast steps for a minute; it prints a line when it has begun and stops at the first poll that says so.
LOOP = """
import time
from simclr_jax.runtime import distributed
distributed.initialize()
distributed.catch_signals()
stop = distributed.Preemption()
print("begun", flush=True)
for _ in range(6000):
    time.sleep(0.01)
    if stop():
        print("saving", flush=True)
        time.sleep(SAVING)
        raise SystemExit(75)
"""


def start(saving=0.0):
    code = LOOP.replace("SAVING", str(saving))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_is_noticed_at_once(number):
    with start() as process:
        time.sleep(0.2)
        sent = time.monotonic()
        process.send_signal(number)
        output, message = process.communicate(timeout=30)
        assert time.monotonic() - sent < 5
    assert (process.returncode, output) == (errors.EXIT_PREEMPTED, "saving\n")
    assert ("Ctrl-C again ends at once" in message) == (number == signal.SIGINT)


def test_a_second_ctrl_c_ends_the_process():
    with start(saving=60) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "saving\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGINT, 1, 130)


def test_ctrl_c_of_several_processes_becomes_sigterm(monkeypatch):
    """There JAX's notifier makes all of them agree on the step."""
    from simclr_jax.runtime import distributed

    sent, handlers = [], {}
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(distributed.signal, "signal", handlers.__setitem__)
    distributed.catch_signals()
    assert handlers.keys() == {signal.SIGINT}, "SIGTERM is the notifier's"
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert handlers[signal.SIGINT] is signal.default_int_handler
