"""Calls a function in its own process, because the TPU compiler can crash and does not react to signals."""

from collections.abc import Callable
from concurrent import futures
import multiprocessing
import os
import threading

from simclr_jax.errors import CompilerCrashed


def isolated(function: Callable, *arguments):
    """Call a function of a module in another process and return its result. A crash ends only that process.

    Raises:
      CompilerCrashed: if the process died.
      Exception: whatever the function raised.
    """
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except futures.process.BrokenProcessPool:
            raise CompilerCrashed("crashed") from None


def _end_with_parent() -> None:
    """End this process with its parent: a compilation takes minutes and reacts to no signal."""

    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a child process only

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
