"""Errors that a user can cause, printed as one line instead of a traceback, and the exit codes of the commands."""

from collections.abc import Iterable
import difflib

# A launcher restarts a run that ends with EXIT_PREEMPTED (sysexits' EX_TEMPFAIL: "try again later").
EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3
EXIT_UNAVAILABLE = 69  # the processes of a job did not find each other (sysexits' EX_UNAVAILABLE)
EXIT_COMPILER_CRASHED = 70  # of simclr_jax.plan (sysexits' EX_SOFTWARE)
EXIT_PREEMPTED = 75
# After these, the same command would end in the same way: a launcher does not start it again.
FINAL = (EXIT_USER_ERROR, EXIT_NON_FINITE)


class UserError(ValueError):
    """Something the user gave is wrong: the message says what it was and what would be right."""

    exit_code = EXIT_USER_ERROR


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""

    exit_code = EXIT_NON_FINITE


class Preempted(Exception):
    """Not a failure: the run was asked to stop (SIGTERM), has saved, and continues when it is started again."""

    exit_code = EXIT_PREEMPTED


class CompilerCrashed(RuntimeError):
    """The process of the TPU compiler died."""

    exit_code = EXIT_COMPILER_CRASHED


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for a message about an unknown name: " (did you mean 'width'?)"; empty where none is near."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def listed(names: Iterable[str]) -> str:
    """Names in a message, sorted."""
    return ", ".join(sorted(names))
