"""Runs several processes of one job on this machine, and restarts the job when one fails.

    python -m launch.local --num_processes=2 -- python -m simclr_jax.pretrain --config=configs/digits.py --workdir=DIR

Use it to try out on one machine what happens on several, or to have one process for each group of devices. (A single
process uses all devices that JAX sees and needs no launcher.) Process 0 has the terminal; the lines of the other processes
begin with their number. If a process dies, the launcher kills the other processes, which would wait for it forever, and
restarts the job, at most --max_restarts times. The job continues from its newest checkpoint. SIGTERM and Ctrl-C go to all
processes, which save and end. The exit code is that of the job: see launch/README.md.
"""

import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import flags

from launch import common
from simclr_jax import errors

# A process that lost its peers ends within seconds, or never.
GRACE_SECONDS = 15.0
# After SIGTERM, time for one step and a checkpoint.
SAVE_SECONDS = 600.0


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this launcher."""
    flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1, flag_values=values)
    text = "CPU devices that each process simulates; 0: the devices that JAX sees."
    flags.DEFINE_integer("devices_per_process", 0, text, lower_bound=0, flag_values=values)
    text = "Number of failures after which the launcher gives up."
    flags.DEFINE_integer("max_restarts", 3, text, lower_bound=0, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Only print the commands.", flag_values=values)


def environment(process: int, count: int, port: int, devices: int) -> dict[str, str]:
    """The environment variables that tell a process which one of the job it is."""
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
    """Knows whether this launcher was asked to stop, and passes SIGTERM on to the processes."""

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
    """Starts `count` processes of a command, each with `devices` simulated CPU devices (0: what JAX sees)."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for number in range(count):
        settings = os.environ | environment(number, count, port, devices)
        # `python` in the command is the one that runs this launcher, also where its environment is not activated.
        settings["PATH"] = os.pathsep.join(
            [str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        # In a new session, so that Ctrl-C reaches only this launcher, which then asks the processes to save.
        output = None if number == 0 else subprocess.PIPE
        process = subprocess.Popen(
            common.ending_with_launcher(command),
            env=settings,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
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
    """Waits until all processes have ended and returns their exit codes. Kills those that wait for a dead process."""
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


def run_job(command: list[str], count: int, devices: int, max_restarts: int) -> int:
    """Runs the job to its end and returns its exit code."""
    stop, failures = Stop(), 0
    while True:
        stop.processes = start(command, count, devices)
        codes = wait(stop.processes)
        code = common.job_code(codes)
        if code in (0, *errors.FINAL) or stop.asked:
            return code
        if code != errors.EXIT_PREEMPTED:  # only one process was asked to stop, which is no failure
            failures += 1
            if failures > max_restarts:
                print(f"launch.local: exit codes {codes}; given up after {max_restarts} restarts.", file=sys.stderr)
                return code
        print(f"launch.local: exit codes {codes}; started again (failures: {failures}).", file=sys.stderr, flush=True)


def run(argv: list[str]) -> int:
    """Carries out a command line; returns the exit code.

    Raises:
      UserError: for mistakes in it.
    """
    _, values, command = common.parse(argv, define_flags, __doc__)
    common.require(values, num_processes="2")
    common.check_command(command)
    count, devices = values.num_processes, values.devices_per_process
    if values.dry_run:
        for number in range(count):
            settings = environment(number, count, 12345, devices)
            print(" ".join([*(f"{key}={shlex.quote(value)}" for key, value in settings.items()), shlex.join(command)]))
        return 0
    return run_job(command, count, devices, values.max_restarts)


if __name__ == "__main__":
    common.main(run)
