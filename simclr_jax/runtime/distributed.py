"""Connects the processes of a run: start and end of JAX's distributed runtime, and checks that they agree."""

import hashlib
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax import errors
from simclr_jax.errors import UserError

VARIABLES = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def is_primary() -> bool:
    """Whether this process is the one that writes metrics, pictures and results."""
    return jax.process_index() == 0


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> None:
    """Starts JAX's distributed runtime. Commands call it before they use a device.

    On Cloud TPU, GKE, SLURM and Open MPI, JAX detects the processes of the job. Elsewhere they are given by the three
    arguments, or by the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Without any of
    these, there is a single process, which needs no runtime.

    Args:
      coordinator_address: HOST:PORT at which process 0 listens, the same on all processes.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      timeout: seconds to wait for the other processes. After that, this process ends with a message and exit code 69; JAX
        itself would abort.

    Raises:
      UserError: for incomplete or malformed arguments.
    """
    if jax.distributed.is_initialized():
        return
    given = _given(coordinator_address, num_processes, process_id)
    if given is not None:
        _connect(given, timeout)
        return
    try:
        _connect({}, timeout)
    except ValueError:  # "coordinator_address should be defined": JAX detects no cluster
        return


def _given(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> dict | None:
    """The three settings from the arguments and the environment, checked; None if none of them is set."""
    values: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    for name, variable in VARIABLES.items():
        if values[name] is None:
            values[name] = os.environ.get(variable)
    if all(value is None for value in values.values()):
        return None
    missing = [f"--{name} (or {VARIABLES[name]})" for name, value in values.items() if value is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} is missing: several processes need all three settings.")
    for name in ("num_processes", "process_id"):
        try:
            values[name] = int(values[name])
        except ValueError:
            raise UserError(f"--{name} is {values[name]!r}, but must be a whole number.") from None
    if not 0 <= values["process_id"] < values["num_processes"]:
        raise UserError(
            f"--process_id is {values['process_id']}, but must be from 0 to {values['num_processes'] - 1}, one less than "
            "--num_processes."
        )
    host, _, port = values["coordinator_address"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator_address is {values['coordinator_address']!r}, but must be HOST:PORT.")
    return values


def _connect(given: dict, timeout: int) -> None:
    """Calls `jax.distributed.initialize`. At the timeout, ends the process with a message instead of an abort."""
    connected = threading.Event()

    def watch():
        if not connected.wait(timeout):
            print(f"error: {_diagnosis(given, timeout)}", file=sys.stderr, flush=True)
            os._exit(errors.EXIT_UNAVAILABLE)

    threading.Thread(target=watch, daemon=True).start()
    try:
        jax.distributed.initialize(**given, initialization_timeout=timeout + 60)
    finally:
        connected.set()


def _diagnosis(given: dict, timeout: int) -> str:
    """Why the processes could not connect."""
    if not given:
        return f"the other processes of this cluster did not answer within {timeout} s. Are all of them started?"
    address = given["coordinator_address"]
    everyone = f"not all of the {given['num_processes']} processes connected within {timeout} s"
    if given["process_id"] == 0:
        return (
            f"{everyone}. Are all started, with --coordinator_address={address} and a different --process_id for each, and "
            "can they reach this address through the firewall?"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except socket.gaierror:
        why = f"this machine does not know the host name {host!r}"
    except OSError as error:
        why = f"nothing answers there ({error.strerror or error})"
    else:
        return (
            f"{everyone}, although the coordinator at {address} answers. Are the other processes started, with the same "
            "address?"
        )
    return (
        f"cannot reach the coordinator at {address} within {timeout} s: {why}. --coordinator_address must be the address of "
        "the process with --process_id=0."
    )


def check_shared(workdir: epath.Path) -> None:
    """Refuses a workdir that is not the same folder for all processes. All processes have to call it.

    Raises:
      UserError: on the processes that do not see a file that process 0 has written there.
    """
    if jax.process_count() == 1:
        return
    token = str(int(multihost_utils.broadcast_one_to_all(np.array(secrets.randbits(31), np.int32))))
    probe = workdir / ".shared"
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
    multihost_utils.sync_global_devices("the probe is written")
    deadline = time.monotonic() + 30  # network file systems may show a new file late
    while not (seen := probe.exists() and probe.read_text() == token) and time.monotonic() < deadline:
        time.sleep(0.5)
    multihost_utils.sync_global_devices("the probe was looked for")
    if jax.process_index() == 0:
        probe.unlink()
    if not seen:
        raise UserError(
            f"--workdir={workdir} is not shared: process {jax.process_index()} does not see what process 0 has written "
            "there. It has to be on a file system that all hosts mount, or in a bucket (gs://BUCKET/...)."
        )


def linger() -> None:
    """Gives the other processes time to report the same mistake. They are aborted when the coordinator, process 0, ends."""
    if jax.distributed.is_initialized() and jax.process_count() > 1 and jax.process_index() == 0:
        time.sleep(5)


def shutdown() -> None:
    """Waits for the other processes, so that none loses its coordinator. All processes have to call it."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        jax.distributed.shutdown()


def check_agreement(**facts: str) -> None:
    """Checks that all processes were started with the same facts, such as config and data set.

    All processes have to call it with the same names.

    Args:
      **facts: text to compare, by name.

    Raises:
      UserError: on every process, with the fact and the processes that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint8) for text in facts.values()]
    everyones = multihost_utils.process_allgather(np.stack(digests))  # [processes, facts, 16]
    for number, name in enumerate(facts):
        differing = np.flatnonzero((everyones[:, number] != everyones[0, number]).any(axis=-1)).tolist()
        if differing:
            mine = next(iter(facts[name].splitlines()), "")[:200]
            raise UserError(
                f"the processes {differing} have another {name.replace('_', ' ')} than process 0: start all with the "
                f"same command on the same data. Process {jax.process_index()} has: {mine}"
            )


def decide(answer: bool) -> bool:
    """The answer of process 0. All processes have to call it."""
    if jax.process_count() == 1:
        return answer
    with jax.transfer_guard("allow"):  # the loop, which asks this, refuses other transfers
        return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))


def sum_over_processes(value: int) -> int:
    """The sum of `value` over all processes. All processes have to call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.array(value, np.int64)).sum())


def min_over_processes(value: float) -> float:
    """The least `value` of all processes. All processes have to call it."""
    if jax.process_count() == 1:
        return value
    with jax.transfer_guard("allow"):
        return float(multihost_utils.process_allgather(np.array(value, np.float32)).min())


_asked_to_stop = threading.Event()


def catch_signals() -> None:
    """Let SIGTERM and the first Ctrl-C ask the run to stop; a second Ctrl-C ends the process at once. See `Preemption`.

    With several processes, JAX's preemption notifier handles SIGTERM, and Ctrl-C becomes a SIGTERM.
    """
    alone = jax.process_count() == 1

    def stop(number: int, frame: object) -> None:
        del frame
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("\nstopping, and saving what is done; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        if alone:
            _asked_to_stop.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    if alone:  # the notifier would need seconds to notice
        signal.signal(signal.SIGTERM, stop)


class Preemption:
    """Answers whether this run was asked to stop (SIGTERM, Ctrl-C). The n-th call returns the same on all processes.

    All processes have to call it equally often. Without `catch_signals` (in a notebook, in tests) the answer is always no,
    and SIGTERM ends the process.
    """

    def __init__(self):
        self._calls = 0

    def __call__(self) -> bool:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            return _asked_to_stop.is_set()
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)
