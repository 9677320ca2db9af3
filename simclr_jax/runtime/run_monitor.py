"""What keeps a long run in hand: stopping on request, a watchdog for hangs, a profile, the cache of compiled programs."""

from collections.abc import Iterator
import contextlib
import faulthandler
import logging
import time

from etils import epath
import jax

from simclr_jax.runtime import distributed

log = logging.getLogger("simclr_jax")

# Programs that took longer than this to compile are worth a file.
MIN_COMPILE_SECONDS = 0.5


class RunMonitor:
    """Polled after every training step and every evaluation batch.

    Args:
      profile_steps: (first, last) training step to trace, or None.
      hang_timeout: seconds without a poll after which the stacks of all threads are printed, again after each such time;
        0 for never.
      hang_exit: end the process then (exit code 1), so that its launcher starts the job again.
    """

    def __init__(
        self, *, profile_steps: tuple[int, int] | None = None, hang_timeout: float = 0.0, hang_exit: bool = False
    ):
        self._profile_steps, self._hang_timeout, self._hang_exit = profile_steps, hang_timeout, hang_exit
        self._preempted = distributed.Preemption()
        self._armed = 0.0

    def poll(self) -> bool:
        """Says that the run is alive, and answers whether it was asked to stop. All processes call it equally often."""
        self.arm()
        return self._preempted()

    def arm(self) -> None:
        """From now on the run has to be polled."""
        now = time.monotonic()
        if self._hang_timeout and now - self._armed > min(1.0, self._hang_timeout / 4):
            self._armed = now
            # Of the standard library: a thread without the interpreter's lock, so it runs also where Python hangs.
            faulthandler.dump_traceback_later(self._hang_timeout, repeat=True, exit=self._hang_exit)

    def disarm(self) -> None:
        """For work that may take as long as it likes, such as drawing a map."""
        faulthandler.cancel_dump_traceback_later()
        self._armed = 0.0

    @contextlib.contextmanager
    def profile(self, workdir: epath.Path) -> Iterator["Profile"]:
        """Traces `profile_steps` of the loop inside the `with` block, and ends the trace however the loop ends."""
        profile = Profile(self._profile_steps if distributed.is_primary() else None, workdir / "profile")
        try:
            yield profile
        finally:
            profile.stop()


class Profile:
    """A trace of some training steps.

    Args:
      steps: (first, last), counted from 1; None for no trace.
      folder: where it is written.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: epath.Path):
        self._steps, self._folder, self._running = steps, folder, False

    def before_step(self, step: int) -> None:
        """Starts the trace when its first step is about to run."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after_step(self, step: int, output: jax.Array) -> None:
        """Ends the trace when its last step is done; `output` is anything that this step computed."""
        if self._running and step == self._steps[1]:
            output.block_until_ready()
            self.stop()

    def stop(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("A trace of steps %d to %d is in %s.", *self._steps, self._folder)


def use_compilation_cache(folder: str) -> None:
    """Compiled programs are kept in `folder` and found again by later runs, so that a restart starts fast.

    Args:
      folder: also in a bucket; empty for none. JAX_COMPILATION_CACHE_DIR in the environment goes before it.
    """
    if jax.config.jax_compilation_cache_dir:  # the user's own, by JAX_COMPILATION_CACHE_DIR
        return
    jax.config.update("jax_compilation_cache_dir", folder or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
