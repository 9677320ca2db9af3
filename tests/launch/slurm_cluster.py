"""A real SLURM cluster of two nodes on this machine, from Debian's packages slurm-wlm and munge.

Everything is in one folder and ends with the tests. It needs root, and the host names n1 and n2 of this machine, because JAX
asks for the first node of a job by its name: `echo 127.0.0.1 n1 n2 >> /etc/hosts`.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("n1", "n2")

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/pgid
ReturnToService=2
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmUser=root
StateSaveLocation={folder}/state
SwitchType=switch/none
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
MinJobAge=3600
KillWait=30
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where it can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"SLURM is not installed: no {', '.join(absent)}"
    if os.getuid() != 0:
        return "SLURM's daemons are started by root only"
    try:
        [socket.gethostbyname(node) for node in NODES]
    except OSError:
        return "this machine has no other names: echo 127.0.0.1 n1 n2 >> /etc/hosts"
    return None


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Runs the cluster inside the `with` block; yields the environment in which its commands find it."""
    ports = _free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    host = socket.gethostname()
    (folder / "slurm.conf").write_text(CONFIG.format(host=host, port=ports[0], folder=folder, nodes="\n".join(nodes)))
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    folder.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([_program("mungekey"), "-c", "-k", folder / "munge.key"], check=True)
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
        + [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            log = stack.enter_context((folder / "daemons.log").open("ab"))
            words = [_program(command[0]), *command[1:]]
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
            stack.callback(_stop, process)
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: _idle(environment) == len(NODES), folder)
        yield environment


def _idle(environment: dict[str, str]) -> int:
    words = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    return len(subprocess.run(words, env=environment, capture_output=True, text=True).stdout.split())


def _wait(condition, folder: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in folder.glob("*.log"))
            raise TimeoutError(f"the cluster did not start:\n{logs}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
