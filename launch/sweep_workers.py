"""Workers that carry out the runs of a sweep, several at a time, and start again what may succeed then."""

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

from launch.sweep_runs import Run
from launch.sweep_runs import Stage
from simclr_jax import errors
from simclr_jax.errors import UserError

# Exit codes after which the same command would end in the same way.
FINAL = {errors.EXIT_USER_ERROR: "mistake", errors.EXIT_NON_FINITE: "non-finite"}
TAIL_LINES = 10


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of a run: what to start, and the stages whose results it leaves."""

    command: list[str]
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return self.stages[0].name

    def is_done(self) -> bool:
        return all(stage.results() is not None for stage in self.stages)


def local_jobs(run: Run) -> list[Job]:
    """A process of the binary for each stage."""
    return [Job(stage.command(), (stage,)) for stage in run.stages]


@dataclasses.dataclass(frozen=True)
class Share:
    """A worker's part of this machine; no cores: all, without being bound to them."""

    cores: tuple[int, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def gpus() -> list[str]:
    """The GPUs that JAX would see, as CUDA_VISIBLE_DEVICES has them; asked of the driver, without starting JAX."""
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


def shares(workers: int, devices: list[str]) -> list[Share]:
    """This machine in equal parts: its cores, and its GPUs where there are some.

    Bound to cores, for then JAX, TensorFlow and BLAS all start as many threads as a worker has cores.

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
        parts.append(Share(tuple(mine), (("CUDA_VISIBLE_DEVICES", ",".join(visible)),) if visible else ()))
    return parts


class Workers:
    """Carries out runs, as many at a time as there are shares, until all have ended or it is asked to stop.

    SIGTERM and Ctrl-C make it ask the processes to save and end; Ctrl-C once more kills them.

    Args:
      shares: one for each worker.
      retries: how often a job is started again that has failed for a reason unknown. Preemption does not count.
      jobs: a run's jobs, in their order.
      say: told what happens, a text of one or more lines.
    """

    def __init__(
        self,
        shares: list[Share],
        *,
        retries: int,
        jobs: Callable[[Run], list[Job]] = local_jobs,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ):
        self._count, self._retries, self._jobs, self._say = len(shares), retries, jobs, say
        self._free: queue.SimpleQueue[Share] = queue.SimpleQueue()
        for share in shares:
            self._free.put(share)
        self._processes: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def work(self, runs: list[Run]) -> list[str]:
        """How each run ended: "done", "non-finite", "mistake", "failed", "stopped" or "elsewhere"."""
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

    def _work_on(self, run: Run, label: str) -> str:
        if self.stopping.is_set():
            return "stopped"
        share = self._free.get()
        try:
            run.records.mkdir(parents=True, exist_ok=True)
            with _locked(run.records / ".lock") as lock:
                return self._carry_out(run, label, share, lock)
        except BlockingIOError:
            self._say(f"{label}: left out, since another process works on it")
            return "elsewhere"
        finally:
            self._free.put(share)

    def _carry_out(self, run: Run, label: str, share: Share, lock: int) -> str:
        (run.records / "status.json").unlink(missing_ok=True)
        self._say(f"{label}: started")
        status = "done"
        for job in self._jobs(run):
            outcome = self._finish(run, job, label, share, lock)
            if outcome == "done":
                continue
            status = outcome
            if outcome == "stopped" or not job.stages[0].follow_up:
                break  # the other evaluations do not need the one that failed
        self._say(f"{label}: {status}")
        return status

    def _finish(self, run: Run, job: Job, label: str, share: Share, lock: int) -> str:
        """Starts the job until it is done or there is no use in it."""
        failures = 0
        while not job.is_done():
            if self.stopping.is_set():
                return "stopped"
            code = self._start(job, run.log(job.stages[0]), share, lock)
            if job.is_done():
                break
            if code not in FINAL:
                if self.stopping.is_set():
                    return "stopped"
                if code == errors.EXIT_PREEMPTED:
                    self._say(f"{label}: {job.name} was preempted; started again")
                    continue
                failures += 1
                if failures <= self._retries:
                    self._say(f"{label}: {job.name} ended with {_reason(code)}; started again")
                    continue
            status = FINAL.get(code, "failed")
            run.record(status, stage=job.name, exit_code=code, failures=failures)
            log = run.log(job.stages[0])
            self._say(f"{label}: {job.name} ended with {_reason(code)}. {log} ends with:\n{_tail(log)}")
            return status
        return "done"

    def _start(self, job: Job, log: pathlib.Path, share: Share, lock: int) -> int:
        # Alone in its job, whatever cluster this launcher itself may have been started by.
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
                start_new_session=True,  # Ctrl-C reaches this launcher only, which asks the process to save
                pass_fds=(lock,),  # if this launcher is killed, the run stays locked as long as the process lives
            )
        self._processes.add(process)
        if share.cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, share.cores)  # at once, so before it starts threads
        if self.stopping.is_set():
            process.terminate()
        code = process.wait()
        self._processes.discard(process)
        return code


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[int]:
    """Holds a lock file, so that no two processes work on a run.

    Raises:
      BlockingIOError: where another one holds it.
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
