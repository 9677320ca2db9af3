"""Several processes of one job on this machine, started again when they fail.

    python -m launch.local --num_processes=2 -- python -m simclr_jax.pretrain --config=configs/digits.py --workdir=DIR

For trying out on one machine what happens on several, and for machines where one process for each group of devices is
wanted. (One process alone uses all devices that JAX sees, and needs no launcher.) Process 0 has the terminal; the lines of
the others begin with their number. If a process dies, the others, which would wait for it for ever, are killed, and the job
is started again, at most --max_restarts times; it continues from its newest checkpoint. SIGTERM and Ctrl-C go to all
processes, which save and end. The exit code is the job's: see launch/README.md.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import app
from absl import flags

from launch import common
from simclr_jax import errors

PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes.", lower_bound=1, required=True)
DEVICES = flags.DEFINE_integer(
    "devices_per_process", 0, "CPU devices that each process simulates; 0: what JAX sees.", lower_bound=0
)
RESTARTS = flags.DEFINE_integer("max_restarts", 3, "Failures after which the job is given up.", lower_bound=0)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the commands.")

# A process that lost its peers ends within seconds, or never.
GRACE_SECONDS = 15.0
# After SIGTERM: a step and a checkpoint.
SAVE_SECONDS = 600.0


def environment(process: int, count: int, port: int, devices: int) -> dict[str, str]:
    """The variables that make a process one of the job's."""
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(process),
    }
    if devices:
        kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        variables["XLA_FLAGS"] = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
        variables["JAX_PLATFORMS"] = "cpu"
    return variables


class Stop:
    """Whether this launcher was asked to stop; passes it on to the processes."""

    def __init__(self):
        self.asked = False
        self.processes: list[subprocess.Popen] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number, frame):
        del number, frame
        self.asked = True
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def start(command: list[str], count: int, devices: int) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for number in range(count):
        settings = os.environ | environment(number, count, port, devices)
        # Sessions of their own: Ctrl-C reaches this launcher only, which asks them to save.
        output = None if number == 0 else subprocess.PIPE
        process = subprocess.Popen(
            command, env=settings, stdout=output, stderr=subprocess.STDOUT if output else None, start_new_session=True
        )
        if output:
            threading.Thread(target=_relay, args=(process.stdout, number), daemon=True).start()
        processes.append(process)
    pids = ", ".join(str(process.pid) for process in processes)
    print(f"launch.local: process ids {pids}", file=sys.stderr, flush=True)
    return processes


def _relay(lines, number: int) -> None:
    for line in lines:
        sys.stderr.write(f"[{number}] {line.decode(errors='replace')}")
        sys.stderr.flush()


def wait(processes: list[subprocess.Popen]) -> list[int]:
    """The exit codes, once all have ended; those that wait for a dead one are killed."""
    deadline = None
    while any(process.poll() is None for process in processes):
        ended = [process.returncode for process in processes if process.returncode is not None]
        if ended and deadline is None:
            good = all(code in (0, errors.EXIT_PREEMPTED) for code in ended)
            deadline = time.monotonic() + (SAVE_SECONDS if good else GRACE_SECONDS)
        if deadline and time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()  # SIGTERM would ask it to save, which it cannot do alone
        time.sleep(0.1)
    return [process.returncode for process in processes]


def run(command: list[str], count: int, devices: int, max_restarts: int) -> int:
    """Runs the job to its end; returns its exit code."""
    stop, failures = Stop(), 0
    while True:
        stop.processes = start(command, count, devices)
        codes = wait(stop.processes)
        code = common.job_code(codes)
        if code in (0, *errors.FINAL) or stop.asked:
            return code
        if code != errors.EXIT_PREEMPTED:  # one process alone was asked to stop: not a failure
            failures += 1
            if failures > max_restarts:
                print(f"launch.local: exit codes {codes}; given up after {max_restarts} restarts.", file=sys.stderr)
                return code
        print(f"launch.local: exit codes {codes}; started again (failures: {failures}).", file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    command = argv[1:]
    if not command:
        print("error: no command: put it behind --, as in `-- python -m simclr_jax.pretrain ...`.", file=sys.stderr)
        sys.exit(errors.EXIT_USER_ERROR)
    if DRY_RUN.value:
        for number in range(PROCESSES.value):
            settings = environment(number, PROCESSES.value, 12345, DEVICES.value)
            print(" ".join([*(f"{key}={shlex.quote(value)}" for key, value in settings.items()), shlex.join(command)]))
        return
    sys.exit(run(command, PROCESSES.value, DEVICES.value, RESTARTS.value))


if __name__ == "__main__":
    app.run(main)
