"""Watches a long run: stop requests, a watchdog for hangs, profiles, and the cache of compiled programs."""

from collections.abc import Iterator
import contextlib
import datetime
import faulthandler
import logging
import sys
import time

from etils import epath
import jax

from simclr_jax.runtime import compiled_programs
from simclr_jax.runtime import distributed
from simclr_jax.runtime.trackers import Trackers

log = logging.getLogger("simclr_jax")

# Programs that compile faster than this are not cached.
MIN_COMPILE_SECONDS = 0.5
# The folder that this process uses for them and looks after, if it does.
_cache: epath.Path | None = None


class RunMonitor:
    """Watches a run. It is polled after every training step and every evaluation batch.

    Args:
      profile_steps: (first, last) training step to trace, or None.
      hang_timeout: seconds without a poll after which the stacks of all threads are printed, repeatedly; 0 for never.
      hang_exit: then end the process (exit code 1), so that its launcher restarts the job.
      accept_new_data: whether a run may be continued with other data than it had.
      memory_check: whether a training refuses a step that needs more memory than there is.
      trackers: where the metrics are sent as well; None: nowhere.
    """

    def __init__(
        self,
        *,
        profile_steps: tuple[int, int] | None = None,
        hang_timeout: float = 0.0,
        hang_exit: bool = False,
        memory_check: bool = True,
        accept_new_data: bool = False,
        trackers: Trackers | None = None,
    ):
        self.trackers = trackers or Trackers()
        self.started = datetime.datetime.now(datetime.UTC)
        self.memory_check, self.accept_new_data = memory_check, accept_new_data
        self._profile_steps, self._hang_timeout, self._hang_exit = profile_steps, hang_timeout, hang_exit
        self._preempted = distributed.Preemption()
        self._armed = 0.0

    def poll(self) -> bool:
        """Resets the watchdog and returns whether the run was asked to stop. All processes call it equally often."""
        self.arm()
        return self._preempted()

    def arm(self) -> None:
        """Starts or resets the watchdog."""
        now = time.monotonic()
        if self._hang_timeout and now - self._armed > min(1.0, self._hang_timeout / 4):
            self._armed = now
            # faulthandler uses a thread without the interpreter lock, so it works even when Python hangs.
            # In a notebook only the original standard error is a file.
            file = sys.__stderr__ or sys.stderr
            faulthandler.dump_traceback_later(self._hang_timeout, repeat=True, exit=self._hang_exit, file=file)

    def disarm(self) -> None:
        """Stops the watchdog, for work without a time limit such as drawing a map."""
        faulthandler.cancel_dump_traceback_later()
        self._armed = 0.0

    @contextlib.contextmanager
    def profile(self, workdir: epath.Path) -> Iterator["Profile"]:
        """Traces `profile_steps` of the loop inside the `with` block. The trace is written even if the loop fails."""
        profile = Profile(self._profile_steps if distributed.is_primary() else None, workdir / "profile")
        try:
            yield profile
        finally:
            profile.stop()


class Profile:
    """A trace of some training steps.

    Args:
      steps: (first, last), counted from 1; None for no trace.
      folder: for the trace.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: epath.Path):
        self._steps, self._folder, self._running = steps, folder, False

    def before_step(self, step: int) -> None:
        """Starts the trace if `step` is its first step."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after_step(self, step: int, output: jax.Array) -> None:
        """Ends the trace if `step` is its last step; `output` is any array that this step computed."""
        if self._running and self._steps and step == self._steps[1]:
            output.block_until_ready()
            self.stop()

    def stop(self) -> None:
        """Ends and writes the trace, if one is running."""
        if self._running and self._steps:
            self._running = False
            jax.profiler.stop_trace()
            log.info("A trace of steps %d to %d is in %s.", *self._steps, self._folder)


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, where later runs can load them, so that a restart is fast.

    Args:
      folder: may be in a bucket; empty for no cache. JAX_COMPILATION_CACHE_DIR in the environment overrides it.
    """
    global _cache
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # set by JAX_COMPILATION_CACHE_DIR
        return
    _cache = epath.Path(folder) if folder and distributed.is_primary() else None
    if _cache is not None:
        compiled_programs.verify(_cache)
    jax.config.update("jax_compilation_cache_dir", folder or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def seal_compilation_cache() -> None:
    """At the end of a command: so that the next one can tell whether the programs in the cache are as they were written."""
    if _cache is not None:
        compiled_programs.seal(_cache)
