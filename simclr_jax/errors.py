"""The exit codes of the commands, and the errors that end a command with one line instead of a traceback."""

from collections.abc import Iterable
import difflib

EXIT_USER_ERROR = 2
EXIT_NON_FINITE = 3
EXIT_UNAVAILABLE = 69  # the processes of a job could not connect to each other (sysexits' EX_UNAVAILABLE)
EXIT_COMPILER_CRASHED = 70  # in simclr_jax.plan (sysexits' EX_SOFTWARE)
EXIT_STORAGE = 74  # a disk is full, read-only or not writable (sysexits' EX_IOERR)
EXIT_PREEMPTED = 75  # a launcher starts the run again (sysexits' EX_TEMPFAIL: "try again later")
# The same command would fail in the same way: a launcher does not start it again.
FINAL = (EXIT_USER_ERROR, EXIT_NON_FINITE, EXIT_STORAGE)


class UserError(ValueError):
    """A value from the user is wrong. The message names the value and says what would be right."""

    exit_code = EXIT_USER_ERROR


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""

    exit_code = EXIT_NON_FINITE


class Preempted(Exception):
    """Not a failure: the run received SIGTERM and saved its state. The same command continues it."""

    exit_code = EXIT_PREEMPTED


class StorageError(RuntimeError):
    """A file of the run cannot be written, or is gone. The message names it and says what is needed. Nothing saved is lost."""

    exit_code = EXIT_STORAGE


class CompilerCrashed(RuntimeError):
    """The process that ran the TPU compiler died."""

    exit_code = EXIT_COMPILER_CRASHED


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name, as in " (did you mean 'width'?)"; empty if no known name is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def listed(names: Iterable[str]) -> str:
    """Sorted names for a message, separated by commas."""
    return ", ".join(sorted(names))
