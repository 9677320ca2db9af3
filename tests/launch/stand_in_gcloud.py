"""Stands in for `gcloud compute tpus`: a slice with some workers, each a folder of this machine that is its home.

Under $STAND_IN: state (of the slice), workers/N (homes), calls (a line for each call), port. $STAND_IN_WORKERS says how many
workers a slice has. Remote commands run as local processes, with the variables by which JAX's processes find each other.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(os.environ["STAND_IN"])
STATE, WORKERS = ROOT / "state", ROOT / "workers"


def flag(name, default=None):
    return next((word.partition("=")[2] for word in sys.argv if word.startswith(f"--{name}=")), default)


def create(state):
    if STATE.exists():
        sys.exit("already exists")
    for number in range(int(os.environ.get("STAND_IN_WORKERS", "2"))):
        (WORKERS / str(number)).mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        (ROOT / "port").write_text(str(probe.getsockname()[1]))
    STATE.write_text(state)


def kill_jobs():
    """As when the machines lose their power."""
    for path in WORKERS.glob("*/simclr_jobs/*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def preempt():
    STATE.write_text("PREEMPTED")
    kill_jobs()


def chosen():
    homes = sorted(WORKERS.iterdir())
    return homes if flag("worker") == "all" else [WORKERS / flag("worker")]


def environment(home, count):
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_NUM", "JAX_COOR", "JAX_PROC"))
    }
    return kept | {
        "HOME": str(home),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{(ROOT / 'port').read_text()}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": home.name,
    }


def main():
    with (ROOT / "calls").open("a") as calls:
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.write(" ".join(sys.argv[1:]).replace("\n", " ") + "\n")
    assert sys.argv[1:3] == ["compute", "tpus"]
    assert flag("zone")
    assert "--quiet" in sys.argv
    group, verb = sys.argv[3:5]
    state = STATE.read_text() if STATE.exists() else None
    if verb == "create":
        create("QUEUED" if group == "queued-resources" else "READY")
    elif state is None:
        sys.exit("NOT_FOUND")
    elif (group, verb) == ("tpu-vm", "describe"):
        if state == "QUEUED":
            sys.exit("NOT_FOUND")
        print(state)
    elif (group, verb) == ("queued-resources", "describe"):
        print("WAITING_FOR_RESOURCES" if state == "QUEUED" else "ACTIVE")
        if state == "QUEUED":
            STATE.write_text("READY")
    elif verb == "delete":
        kill_jobs()
        shutil.rmtree(WORKERS)
        STATE.unlink()
    elif state != "READY":
        sys.exit("cannot connect")
    elif verb == "scp":
        source, target = sys.argv[5], sys.argv[6].partition(":")[2]
        for home in chosen():
            shutil.copy(source, home / target)
    elif verb == "ssh":
        homes = chosen()
        count = len(list(WORKERS.iterdir()))
        running = [
            subprocess.Popen(["bash", "-c", flag("command")], cwd=home, env=environment(home, count)) for home in homes
        ]
        sys.exit(max(process.wait() for process in running))
    else:
        sys.exit(f"unknown: {sys.argv}")


if __name__ == "__main__":
    main()
