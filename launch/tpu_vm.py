"""Jobs on Cloud TPU VMs, one slice of any size: every verb is a few `gcloud` commands, which --dry_run prints.

    python -m launch.tpu_vm create  --name=simclr --zone=us-west4-a --type=v5litepod-16 --spot --queued
    python -m launch.tpu_vm setup   --name=simclr --zone=us-west4-a
    python -m launch.tpu_vm run     --name=simclr --zone=us-west4-a -- \
        python -m simclr_jax.pretrain --config=configs/imagenet.py --workdir=gs://BUCKET/run1
    python -m launch.tpu_vm status  --name=simclr --zone=us-west4-a
    python -m launch.tpu_vm logs    --name=simclr --zone=us-west4-a --follow
    python -m launch.tpu_vm stop    --name=simclr --zone=us-west4-a       # saves a checkpoint and ends
    python -m launch.tpu_vm delete  --name=simclr --zone=us-west4-a --queued

and all of it in one, for spot capacity:

    python -m launch.tpu_vm babysit --name=simclr --zone=us-west4-a --type=v5litepod-16 --spot --queued -- COMMAND

babysit creates the slice where it is not there, sets it up, starts the command on all workers and waits; after a
preemption it deletes what is left, creates the slice anew and goes on from the newest checkpoint. A slice that it created
it deletes when the job has ended, unless --keep is given. Started again, it finds the running job and goes on waiting.

The workers find each other by themselves. The workdir has to be in a bucket, or on a file system that all workers mount.
Exit codes of run and babysit: the job's, see launch/README.md.
"""

import pathlib
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time

from absl import flags

from launch import common
from simclr_jax import errors
from simclr_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parent.parent
VERBS = ("create", "setup", "run", "status", "logs", "stop", "delete", "babysit")

# By the type's beginning: the image that Cloud TPU recommends for JAX.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}

# The images have Python 3.10, which is too old; uv brings a newer one.
SETUP = (
    "python3 -m pip install --quiet --user --upgrade uv"
    " && ~/.local/bin/uv venv --quiet --clear --python 3.12 .venv"
    " && ~/.local/bin/uv pip install --quiet --python .venv --constraint constraints.txt --editable '.[tpu]'"
)

# States of a TPU VM and of a queued resource from which no job comes back.
LOST = ("PREEMPTED", "TERMINATED", "STOPPED", "NOT_FOUND", "SUSPENDED", "FAILED", "DELETING", "STOPPING", "SUSPENDING")


def define_flags(values: flags.FlagValues) -> None:
    text = "Of the TPU VM (and of its queued resource)."
    flags.DEFINE_string("name", None, text, flag_values=values)
    flags.DEFINE_string("zone", None, "As in us-west4-a.", flag_values=values)
    flags.DEFINE_string("project", None, "Default: gcloud's.", flag_values=values)
    text = "Accelerator type: v5litepod-16, v4-32 (cores), v5p-32 (cores), v6e-16, ..."
    flags.DEFINE_string("type", None, text, flag_values=values)
    flags.DEFINE_string("runtime_version", None, "Image. Default: the type's.", flag_values=values)
    flags.DEFINE_bool("spot", False, "Cheap, and taken away when others want it.", flag_values=values)
    flags.DEFINE_bool("queued", False, "Through a queued resource, which waits for capacity.", flag_values=values)
    flags.DEFINE_multi_string("create_flag", [], "A further flag for gcloud's create.", flag_values=values)
    text = "What installs the code on each worker, in its folder."
    flags.DEFINE_string("setup_command", SETUP, text, flag_values=values)
    flags.DEFINE_string("job", "job", "Name of the job, for its log on the workers.", flag_values=values)
    flags.DEFINE_multi_string("env", [], "NAME=VALUE for the command.", flag_values=values)
    flags.DEFINE_bool("detach", False, "run: do not wait for the job's end.", flag_values=values)
    flags.DEFINE_integer("worker", 0, "logs: of which worker.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("lines", 50, "logs: how many of the last lines.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("follow", False, "logs: go on until Ctrl-C.", flag_values=values)
    text = "babysit: failures of the job, other than preemptions, after which it is given up."
    flags.DEFINE_integer("max_failures", 5, text, lower_bound=0, flag_values=values)
    text = "babysit: do not delete the slice that it created when the job has ended."
    flags.DEFINE_bool("keep", False, text, flag_values=values)
    flags.DEFINE_float("poll_seconds", 30.0, "Seconds between looks.", lower_bound=0.01, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Only print the commands.", flag_values=values)


class TpuVm:
    """A slice and the job on it."""

    def __init__(self, values: flags.FlagValues, command: list[str]):
        self._values, self._command = values, command
        self._shell = common.Shell(values["dry_run"].value)
        self.workers = 0  # seen so far

    def _flag(self, name: str):
        return self._values[name].value

    def _gcloud(self, group: str, *arguments: str) -> list[str]:
        command = ["gcloud", "compute", "tpus", group, *arguments, f"--zone={self._flag('zone')}", "--quiet"]
        return command + ([f"--project={self._flag('project')}"] if self._flag("project") else [])

    def _ssh(self, script: str, worker: str = "all") -> list[str]:
        return self._gcloud("tpu-vm", "ssh", self._flag("name"), f"--worker={worker}", f"--command={script}")

    # The slice.

    def state(self) -> str:
        """Of the TPU VM, or where that is not there (yet) of its queued resource: READY, PREEMPTED, NOT_FOUND, ..."""
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
        """Asks for the slice, and waits until it is there."""
        common.require(self._values, type="v5litepod-16")
        kind, name = self._flag("type"), self._flag("name")
        runtime = self._flag("runtime_version") or RUNTIMES.get(kind.split("-")[0])
        if runtime is None:
            known = ", ".join(RUNTIMES)
            raise UserError(f"--type={kind}: its image is not known here (only of {known}): give --runtime_version.")
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
        name = self._flag("name")
        if self._flag("queued"):  # --force: with the TPU VM
            self._shell.run(self._gcloud("queued-resources", "delete", name, "--force"), check=False)
        else:
            self._shell.run(self._gcloud("tpu-vm", "delete", name), check=False)

    def setup(self) -> None:
        """Copies this clone to all workers, as it stands here, and installs it there."""
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

    # The job: a process on each worker, detached, with its log, its process id and at last its exit code in files.

    def _files(self, suffix: str) -> str:
        return f"~/simclr_jobs/{self._flag('job')}.{suffix}"

    def start(self) -> None:
        """Starts the command on all workers, once nothing of an earlier start is left there."""
        settings = [f"export {shlex.quote(setting)}" for setting in self._flag("env")]
        work = "; ".join([*settings, "export PATH=$PWD/.venv/bin:$PATH", shlex.join(self._command)])
        # With a trap of its own, this shell outlives a SIGTERM to its process group and tells how the command ended. The
        # exit code is written by renaming, so that it is never seen half-written.
        inner = f"trap : TERM; {work}; echo $? > {self._files('tmp')}; mv {self._files('tmp')} {self._files('exit')}"
        script = (
            f"{self._kill('KILL')}; mkdir -p ~/simclr_jobs && cd ~/simclr_jax && rm -f {self._files('exit')}"
            f" && {{ setsid nohup bash -c {shlex.quote(inner)} >> {self._files('log')} 2>&1 < /dev/null &"
            f" echo $! > {self._files('pid')}; }}"
        )
        self._shell.run(self._ssh(script))

    def _kill(self, signal: str) -> str:
        """To the whole process group: `setsid` made one."""
        pid = self._files("pid")
        return f"if [ -f {pid} ]; then kill -{signal} -- -$(cat {pid}) 2> /dev/null || true; fi"

    def stop(self) -> None:
        """SIGTERM to all: they save and end."""
        self._shell.run(self._ssh(self._kill("TERM")))

    def kill(self) -> None:
        self._shell.run(self._ssh(self._kill("KILL")), check=False, quiet=True)

    def codes(self) -> list[int | None] | None:
        """Each worker's exit code, None while it runs; None where the workers cannot be reached or have no job.

        A process that is gone without an exit code was killed: 137.
        """
        pid, exit_code = self._files("pid"), self._files("exit")
        script = (
            f"if [ -f {exit_code} ]; then s=$(cat {exit_code});"
            f" elif [ -f {pid} ] && kill -0 -- -$(cat {pid}) 2> /dev/null; then s=running;"
            f" elif [ -f {pid} ]; then s=137; else s=none; fi; echo simclr_job=$s on $(hostname)"
        )
        code, output = self._shell.ask(self._ssh(script))
        found = re.findall(r"simclr_job=(\w+)", output)
        self.workers = max(self.workers, len(found))
        if code or not found or "none" in found or len(found) < self.workers:
            return None
        return [None if state == "running" else int(state) for state in found]

    def logs(self) -> None:
        script = f"tail -n {self._flag('lines')} {'-F ' if self._flag('follow') else ''}{self._files('log')}"
        self._shell.run(self._ssh(script, str(self._flag("worker"))))

    def wait(self) -> int | None:
        """The job's exit code, or None where the slice is lost."""
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
                    # The others wait for a dead one, for ever. They get a little time to come to the same mistake.
                    ended_at = ended_at or time.monotonic()
                    if time.monotonic() - ended_at > 15:
                        self.kill()
                        return common.job_code(ended)
            time.sleep(self._flag("poll_seconds"))

    def babysit(self) -> int:
        """Sees the job through to its end; returns its exit code."""
        name, created, failures, set_up = self._flag("name"), False, 0, False
        if self._shell.dry_run:
            for step in (self.state, self.create, self.setup, self.start, self.codes):
                step()
            print("# when the slice was lost, before it is created again; and when the job has ended:")
            self.delete()
            return 0
        while True:
            code = None
            state = self.state()
            try:
                if state in LOST:
                    if state != "NOT_FOUND":
                        print(f"{name}: {state}; deleted and created again.", flush=True)
                        self.delete()
                    self.create()
                    created, set_up, self.workers = True, False, 0
                elif state != "READY":
                    print(f"{name}: {state}", flush=True)
                    time.sleep(self._flag("poll_seconds"))
                    continue
                if None in (self.codes() or []):
                    print(f"{name} runs the job.", flush=True)
                else:
                    if not set_up:
                        self.setup()
                    set_up = True
                    self.start()
                code = self.wait()
                if code is None:
                    continue
                if code in (0, *errors.FINAL):
                    break
                if code == errors.EXIT_PREEMPTED:
                    print(f"{name}: asked to stop, has saved; started again.", flush=True)
                    continue
                reason = f"exit code {code}"
            except UserError as error:  # of gcloud, which also a preemption in the middle of it makes fail
                reason = str(error)
            failures += 1
            if failures > self._flag("max_failures"):
                print(f"{name}: {reason}; given up after {failures} failures.", file=sys.stderr, flush=True)
                code = 1 if code is None else code
                break
            print(f"{name}: {reason}; tried again (failures: {failures}).", flush=True)
            time.sleep(self._flag("poll_seconds"))
        if created and not self._flag("keep"):
            self.delete()
        return code


def pack(archive: pathlib.Path) -> None:
    """The clone's files, without what git ignores, as a tar."""
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


def run(argv: list[str]) -> int:
    """Carries out a command line; returns the exit code.

    Raises:
      UserError: for mistakes, and where gcloud fails.
    """
    verb, values, command = common.parse(argv, define_flags, __doc__, VERBS)
    common.require(values, name="simclr", zone="us-west4-a")
    if verb in ("run", "babysit"):
        common.check_command(command)
    elif command:
        raise UserError(f"{command[0]!r} behind -- is for run and babysit.")
    common.check_workdir(command)
    common.check_settings(values["env"].value)
    vm = TpuVm(values, command)
    if verb == "babysit":
        return vm.babysit()
    if verb == "status":
        state, codes = vm.state(), vm.codes()
        if not values["dry_run"].value:
            shown = "no job" if codes is None else ["running" if code is None else code for code in codes]
            print(f"{values['name'].value}: {state}; exit codes of the workers: {shown}")
        return 0
    if verb == "run":
        if not values["dry_run"].value and None in (vm.codes() or []):
            raise UserError("a job is running there: stop it first, or wait for it with babysit.")
        vm.start()
        if values["detach"].value or values["dry_run"].value:
            return 0
        code = vm.wait()
        return 1 if code is None else code
    {"create": vm.create, "setup": vm.setup, "logs": vm.logs, "stop": vm.stop, "delete": vm.delete}[verb]()
    return 0


if __name__ == "__main__":
    common.main(run)
