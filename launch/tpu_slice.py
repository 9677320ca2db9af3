"""A slice of Cloud TPU VMs and the job on it, by way of `gcloud`."""

import pathlib
import re
import shlex
import subprocess
import tarfile
import tempfile
import time

from absl import flags

from launch import common
from simclr_jax import errors
from simclr_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parent.parent

# The image that Cloud TPU recommends for JAX, by the beginning of the accelerator type.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}

# States of a TPU VM or a queued resource in which its job is lost.
LOST = ("PREEMPTED", "TERMINATED", "STOPPED", "NOT_FOUND", "SUSPENDED", "FAILED", "DELETING", "STOPPING", "SUSPENDING")


class TpuSlice:
    """A slice and the job on it.

    Args:
      values: the flags of `launch.tpu_vm`.
      command: of the job; empty for verbs that start none.
    """

    def __init__(self, values: flags.FlagValues, command: list[str]):
        self._values, self._command = values, command
        self._shell = common.Shell(values["dry_run"].value)
        self.workers = 0  # the most that have answered so far

    def _flag(self, name: str):
        return self._values[name].value

    def _gcloud(self, group: str, *arguments: str) -> list[str]:
        command = ["gcloud", "compute", "tpus", group, *arguments, f"--zone={self._flag('zone')}", "--quiet"]
        return command + ([f"--project={self._flag('project')}"] if self._flag("project") else [])

    def _ssh(self, script: str, worker: str = "all") -> list[str]:
        return self._gcloud("tpu-vm", "ssh", self._flag("name"), f"--worker={worker}", f"--command={script}")

    # The slice.

    def state(self) -> str:
        """State of the TPU VM, or of its queued resource if there is no TPU VM (yet): READY, PREEMPTED, NOT_FOUND, ..."""
        code, state = self._shell.ask(self._gcloud("tpu-vm", "describe", self._flag("name"), "--format=value(state)"))
        if code == 0 and state.strip():
            return state.strip()
        if self._flag("queued"):
            code, state = self._shell.ask(
                self._gcloud("queued-resources", "describe", self._flag("name"), "--format=value(state.state)")
            )
            if code == 0 and state.strip():
                return state.strip()
        return "NOT_FOUND"

    def create(self) -> None:
        """Creates the slice and waits until it is ready.

        Raises:
          UserError: for an accelerator type without a known image, and if the slice is lost while it waits.
        """
        common.require(self._values, type="v5litepod-16")
        self.workers = 0
        kind, name = self._flag("type"), self._flag("name")
        runtime = self._flag("runtime_version") or RUNTIMES.get(kind.split("-")[0])
        if runtime is None:
            known = ", ".join(RUNTIMES)
            raise UserError(
                f"--type={kind}: no image is known for this type, only for {known}: give --runtime_version."
            )
        extra = [*(["--spot"] if self._flag("spot") else []), *self._flag("create_flag")]
        if not self._flag("queued"):
            options = [f"--accelerator-type={kind}", f"--version={runtime}", *extra]
            self._shell.run(self._gcloud("tpu-vm", "create", name, *options))
            return
        options = [f"--node-id={name}", f"--accelerator-type={kind}", f"--runtime-version={runtime}", *extra]
        self._shell.run(self._gcloud("queued-resources", "create", name, *options))
        shown = None
        while (state := self.state()) != "READY" and not self._shell.dry_run:
            if state in LOST:
                raise UserError(f"{name} is {state}: see `gcloud compute tpus queued-resources describe {name}`.")
            if state != shown:
                print(f"{name}: {state}", flush=True)
            shown = state
            time.sleep(self._flag("poll_seconds"))

    def delete(self) -> None:
        """Deletes the slice, and its queued resource."""
        name = self._flag("name")
        if self._flag("queued"):  # --force: with the TPU VM
            self._shell.run(self._gcloud("queued-resources", "delete", name, "--force"), check=False)
        else:
            self._shell.run(self._gcloud("tpu-vm", "delete", name), check=False)

    def setup(self) -> None:
        """Copies this clone, including uncommitted changes, to all workers and installs it there."""
        with tempfile.TemporaryDirectory() as folder:
            archive = pathlib.Path(folder) / "simclr_jax.tar.gz"
            if not self._shell.dry_run:
                pack(archive)
            target = f"{self._flag('name')}:simclr_jax.tar.gz"
            self._shell.run(self._gcloud("tpu-vm", "scp", str(archive), target, "--worker=all"))
        script = (
            f"mkdir -p ~/simclr_jax && cd ~/simclr_jax && tar xzf ~/simclr_jax.tar.gz && {self._flag('setup_command')}"
        )
        self._shell.run(self._ssh(script))

    # The job: a detached process on each worker. Files hold its log, its process id and, at the end, its exit code.

    def _files(self, suffix: str) -> str:
        return f"~/simclr_jobs/{self._flag('job')}.{suffix}"

    def start(self) -> None:
        """Starts the command on all workers, after killing what is left of an earlier start."""
        settings = [f"export {shlex.quote(setting)}" for setting in self._flag("env")]
        work = "; ".join([*settings, "export PATH=$PWD/.venv/bin:$PATH", shlex.join(self._command)])
        # Because of its trap, this shell survives a SIGTERM to its process group and can write the exit code of the command.
        # The file is renamed into place, so that it is complete whenever it is read.
        inner = f"trap : TERM; {work}; echo $? > {self._files('tmp')}; mv {self._files('tmp')} {self._files('exit')}"
        script = (
            f"{self._kill('KILL')}; mkdir -p ~/simclr_jobs && cd ~/simclr_jax && rm -f {self._files('exit')}"
            f" && {{ setsid nohup bash -c {shlex.quote(inner)} >> {self._files('log')} 2>&1 < /dev/null &"
            f" echo $! > {self._files('pid')}; }}"
        )
        self._shell.run(self._ssh(script))

    def _kill(self, signal: str) -> str:
        """Shell command that sends a signal to the process group of the job, which `setsid` made."""
        pid = self._files("pid")
        return f"if [ -f {pid} ]; then kill -{signal} -- -$(cat {pid}) 2> /dev/null || true; fi"

    def stop(self) -> None:
        """Sends SIGTERM to all workers, which save and end."""
        self._shell.run(self._ssh(self._kill("TERM")))

    def kill(self) -> None:
        """Kills the job on all workers."""
        self._shell.run(self._ssh(self._kill("KILL")), check=False, quiet=True)

    def codes(self) -> list[int | None] | None:
        """The exit code of each worker, None for a worker that is running.

        The result is None, instead of a list, if some workers cannot be reached or have no job. A process that has ended
        without writing its exit code was killed: 137.
        """
        pid, exit_code = self._files("pid"), self._files("exit")
        script = (
            f"if [ -f {exit_code} ]; then s=$(cat {exit_code});"
            f" elif [ -f {pid} ] && kill -0 -- -$(cat {pid}) 2> /dev/null; then s=running;"
            f" elif [ -f {pid} ]; then s=137; else s=none; fi; echo simclr_job=$s on $(hostname)"
        )
        code, output = self._shell.ask(self._ssh(script))
        states = re.findall(r"simclr_job=(\w+)", output)
        self.workers = max(self.workers, len(states))
        if code or not states or "none" in states or len(states) < self.workers:
            return None
        return [None if state == "running" else int(state) for state in states]

    def logs(self) -> None:
        """Prints the last lines of a worker's log."""
        script = f"tail -n {self._flag('lines')} {'-F ' if self._flag('follow') else ''}{self._files('log')}"
        self._shell.run(self._ssh(script, str(self._flag("worker"))))

    def wait(self) -> int | None:
        """Waits for the end of the job and returns its exit code, or None if the slice is lost."""
        unreachable = 0
        ended_at = None
        while True:
            codes = self.codes()
            if codes is None:
                state = self.state()
                unreachable += 1
                if state in LOST or (state == "READY" and unreachable >= 10):
                    print(f"{self._flag('name')}: {state}, {unreachable} times without an answer", flush=True)
                    return None
            else:
                unreachable = 0
                ended = [code for code in codes if code is not None]
                if len(ended) == len(codes):
                    return common.job_code(ended)
                if any(code not in (0, errors.EXIT_PREEMPTED) for code in ended):
                    # The other workers wait for the dead one forever. First they have time to report the same mistake.
                    ended_at = ended_at or time.monotonic()
                    if time.monotonic() - ended_at > 15:
                        self.kill()
                        return common.job_code(ended)
            time.sleep(self._flag("poll_seconds"))


def pack(archive: pathlib.Path) -> None:
    """Writes the files of the clone, without those that git ignores, as a tar archive."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    if listed.returncode:  # not a clone
        skipped = (".venv", "runs", "__pycache__")
        files = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*") if path.is_file())
        names = [str(path) for path in files if not set(path.parts) & set(skipped)]
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            if (REPOSITORY / name).is_file():
                tar.add(REPOSITORY / name, name)
