"""Workers that execute the runs of a sweep, several at a time, and restart a run that may then succeed."""

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import threading

from launch.sweep_runs import Stage
from launch.sweep_runs import SweepRun
from simclr_jax import errors
from simclr_jax.errors import UserError

# The status of a run after each exit code in `errors.FINAL`.
FINAL_STATUS = {errors.EXIT_USER_ERROR: "mistake", errors.EXIT_NON_FINITE: "non-finite"}
TAIL_LINES = 10


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of a run: its command, and the stages whose results it writes."""

    command: list[str]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return self.stages[0].name

    def is_done(self) -> bool:
        return all(stage.results() is not None for stage in self.stages)


def local_jobs(run: SweepRun) -> list[Job]:
    """One process for each stage of a run."""
    return [Job(stage.command(), (stage,)) for stage in run.stages]


@dataclasses.dataclass(frozen=True)
class WorkerShare:
    """The part of this machine that a worker has.

    Attributes:
      cores: numbers of the CPU cores to which its processes are bound; empty: not bound.
      variables: environment variables for its processes.
    """

    cores: tuple[int, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def gpus() -> list[str]:
    """The GPUs that JAX would see, in the format of CUDA_VISIBLE_DEVICES. Asks the driver, so JAX is not started."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listing.splitlines()) if line.startswith("GPU")]


def shares(workers: int, devices: list[str]) -> list[WorkerShare]:
    """Divides the cores and the GPUs of this machine equally among the workers.

    Workers are bound to cores, so that JAX, TensorFlow and BLAS start one thread for each core of the worker.

    Raises:
      UserError: for more workers than GPUs.
    """
    if devices and workers > len(devices):
        raise UserError(f"--workers={workers}, but the runs would share {len(devices)} GPU(s): take at most that many.")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and workers > 1 else []
    parts = []
    for worker in range(workers):
        mine = cores[worker * len(cores) // workers : (worker + 1) * len(cores) // workers]
        if cores and not mine:  # more workers than cores
            mine = [cores[worker % len(cores)]]
        visible = devices[worker * len(devices) // workers : (worker + 1) * len(devices) // workers]
        parts.append(WorkerShare(tuple(mine), (("CUDA_VISIBLE_DEVICES", ",".join(visible)),) if visible else ()))
    return parts


class Workers:
    """Executes runs, one for each share at a time, until all have ended or it is asked to stop.

    On SIGTERM and Ctrl-C it asks the processes to save and end; a second Ctrl-C kills them.

    Args:
      shares: one for each worker.
      retries: how often to restart a job that failed for an unknown reason. Preemptions do not count.
      jobs: returns the jobs of a run, in order.
      say: receives the messages, each of one or more lines.
    """

    def __init__(
        self,
        shares: list[WorkerShare],
        *,
        retries: int,
        jobs: Callable[[SweepRun], list[Job]] = local_jobs,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ):
        self._count, self._retries, self._jobs, self._say = len(shares), retries, jobs, say
        self._free: queue.SimpleQueue[WorkerShare] = queue.SimpleQueue()
        for share in shares:
            self._free.put(share)
        self._processes: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def work(self, runs: list[SweepRun]) -> list[str]:
        """Executes the runs. Returns how each ended: "done", "non-finite", "mistake", "failed", "stopped" or "elsewhere"."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with futures.ThreadPoolExecutor(self._count) as pool:
                pending = [
                    pool.submit(self._work_on, run, f"[{number}/{len(runs)}] {run.name}")
                    for number, run in enumerate(runs, start=1)
                ]
                return [future.result() for future in pending]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number, frame) -> None:
        del frame
        again = self.stopping.is_set()
        if not again:
            self._say("asked to stop: the workers save and end. Ctrl-C kills them.")
        self.stopping.set()
        for process in list(self._processes):
            process.send_signal(signal.SIGKILL if again and number == signal.SIGINT else signal.SIGTERM)

    def _work_on(self, run: SweepRun, label: str) -> str:
        if self.stopping.is_set():
            return "stopped"
        share = self._free.get()
        try:
            run.records.mkdir(parents=True, exist_ok=True)
            with _locked(run.records / ".lock") as lock:
                return self._carry_out(run, label, share, lock)
        except BlockingIOError:
            self._say(f"{label}: skipped, because another process works on it")
            return "elsewhere"
        finally:
            self._free.put(share)

    def _carry_out(self, run: SweepRun, label: str, share: WorkerShare, lock: int) -> str:
        (run.records / "status.json").unlink(missing_ok=True)
        self._say(f"{label}: started")
        status = "done"
        for job in self._jobs(run):
            outcome = self._finish(run, job, label, share, lock)
            if outcome == "done":
                continue
            status = outcome
            # A failed evaluation does not keep the other evaluations from running.
            if outcome == "stopped" or not job.stages[0].follow_up:
                break
        self._say(f"{label}: {status}")
        return status

    def _finish(self, run: SweepRun, job: Job, label: str, share: WorkerShare, lock: int) -> str:
        """Starts the job until it is done, or until another start would not help."""
        failures = 0
        while not job.is_done():
            if self.stopping.is_set():
                return "stopped"
            code = self._start(job, run.log(job.stages[0]), share, lock)
            if job.is_done():
                break
            if code not in errors.FINAL:
                if self.stopping.is_set():
                    return "stopped"
                if code == errors.EXIT_PREEMPTED:
                    self._say(f"{label}: {job.name} was preempted; started again")
                    continue
                failures += 1
                if failures <= self._retries:
                    self._say(f"{label}: {job.name} ended with {_reason(code)}; started again")
                    continue
            status = FINAL_STATUS.get(code, "failed")
            run.record(status, stage=job.name, exit_code=code, failures=failures)
            log = run.log(job.stages[0])
            self._say(f"{label}: {job.name} ended with {_reason(code)}. {log} ends with:\n{_tail(log)}")
            return status
        return "done"

    def _start(self, job: Job, log: pathlib.Path, share: WorkerShare, lock: int) -> int:
        # JAX detects SLURM by this variable. Without it the process is a whole job, even if SLURM started this launcher.
        inherited = {key: value for key, value in os.environ.items() if key != "SLURM_STEP_NODELIST"}
        with log.open("ab") as output:
            output.write(f"$ {shlex.join(job.command)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                job.command,
                env=inherited | dict(share.variables),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only this launcher, which then asks the process to save
                pass_fds=(lock,),  # if this launcher is killed, the run stays locked while the process lives
            )
        self._processes.add(process)
        if share.cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, share.cores)  # at once, before it starts threads
        if self.stopping.is_set():
            process.terminate()
        code = process.wait()
        self._processes.discard(process)
        return code


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[int]:
    """Holds a lock file, so that no two processes work on the same run. Yields its file descriptor.

    Raises:
      BlockingIOError: if another process holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        yield file.fileno()


def _reason(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}" if code else "exit code 0, but without results.json"


def _tail(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
