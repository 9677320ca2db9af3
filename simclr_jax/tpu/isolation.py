"""Calls a function in its own process, because the TPU compiler can crash and does not react to signals."""

from collections.abc import Callable
from concurrent import futures
import multiprocessing
import os
import threading

from simclr_jax.errors import CompilerCrashed


def isolated(function: Callable, *arguments):
    """What a function of a module returns, called in a process of its own: a crash of the compiler ends that one only.

    Raises:
      CompilerCrashed: where the process died.
      Exception: whatever the function raised.
    """
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except futures.process.BrokenProcessPool:
            raise CompilerCrashed("crashed") from None


def _end_with_parent() -> None:
    """A compilation takes minutes and heeds no signal; a command that was stopped should not leave it behind."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
