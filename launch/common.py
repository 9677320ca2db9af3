"""What the launchers share: their command lines, and a shell that prints each command before it runs it."""

from collections.abc import Callable
from collections.abc import Sequence
import os
import shlex
import signal
import subprocess
import sys

from absl import flags

from simclr_jax import errors
from simclr_jax.errors import UserError
from simclr_jax.errors import nearest
from simclr_jax.runtime import flags as flags_lib
from simclr_jax.runtime import help as help_lib
from simclr_jax.runtime import storage


def parse(
    argv: Sequence[str], define_flags: Callable[[flags.FlagValues], None], doc: str, verbs: Sequence[str] = ()
) -> tuple[str, flags.FlagValues, list[str]]:
    """Parses the command line of a launcher. --help prints `doc` and the flags, and ends the process with exit code 0.

    Args:
      argv: the command line; `argv[0]` is the program.
      define_flags: defines the launcher's flags.
      doc: the launcher's docstring.
      verbs: the first argument has to be one of them; empty: the launcher has no verbs.

    Returns:
      The verb ("" for a launcher without verbs), the flags, and the words after `--`.

    Raises:
      UserError: for an unknown verb or flag, with the nearest name, and for a malformed value.
    """
    mine, command = list(argv), []
    if "--" in mine:
        mine, command = mine[: mine.index("--")], mine[mine.index("--") + 1 :]
    values = flags.FlagValues()
    if any(word in flags_lib.HELP for word in mine[1:]):
        define_flags(values)
        help_lib.show(help_lib.text_of(doc, values))
        sys.exit(0)
    verb = ""
    if verbs:
        verb = mine.pop(1) if len(mine) > 1 else ""
        if verb not in verbs:
            problem = f"unknown verb {verb!r}{nearest(verb, verbs)}" if verb else "the verb is missing"
            raise UserError(f"{problem}: one of {', '.join(verbs)}.")
    hint = "flags begin with --, and the command to run comes after a `--`, as in `FLAGS -- COMMAND`."
    flags_lib.parse(mine, values, lambda _, values: define_flags(values), config=False, hint=hint)
    return verb, values, command


def require(values: flags.FlagValues, **examples: str) -> None:
    """Refuses flags without a value. `examples` has the names of the flags, each with a right value for the message."""
    for name, example in examples.items():
        if not values[name].value:
            raise UserError(f"--{name} is missing, as in --{name}={example}.")


def check_command(command: Sequence[str]) -> None:
    """Refuses a command line without a command after `--`."""
    if not command:
        raise UserError("no command: put it after --, as in `-- python -m simclr_jax.pretrain ...`.")


def check_workdir(command: Sequence[str]) -> None:
    """Refuses a relative workdir: it would be another folder on each worker."""
    for word in command:
        name, _, value = word.lstrip("-").partition("=")
        if name == "workdir" and not (value.startswith("/") or "://" in value):
            raise UserError(
                f"--workdir={value} would be another folder on every worker, and would be lost with the slice: give "
                "gs://BUCKET/..., or an absolute path that all workers mount."
            )


def check_settings(settings: Sequence[str]) -> None:
    """Refuses values of --env that are not NAME=VALUE."""
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--env={setting}: give NAME=VALUE.")


def main(run: Callable[[list[str]], int]) -> None:
    """Runs a launcher as a program: one-line messages for the user's mistakes, and exit codes. Ends the process."""
    try:
        code = run(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if (problem := storage.unreachable(error)) is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        code = errors.StorageError.exit_code
    sys.exit(code)


class Shell:
    """Runs commands of a tool such as gcloud and prints each one first.

    Args:
      dry_run: only print them.
    """

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def run(self, command: list[str], *, text: str | None = None, check: bool = True, quiet: bool = False) -> int:
        """Runs a command whose output goes to the terminal, and returns its exit code.

        Args:
          command: program and arguments.
          text: its standard input.
          check: raise if it fails.
          quiet: do not print it.

        Raises:
          UserError: if the program is not installed, or fails.
        """
        if not quiet or self.dry_run:
            print(f"$ {shlex.join(command)}", flush=True)
        if self.dry_run:
            return 0
        code = _call(command, input=text, text=True).returncode
        if check and code:
            raise UserError(f"{shlex.join(command[:5])} ... ended with exit code {code}; its message is above.")
        return code

    def ask(self, command: list[str]) -> tuple[int, str]:
        """Runs a command silently and returns its exit code and standard output. A dry run prints it instead."""
        if self.dry_run:
            print(f"$ {shlex.join(command)}", flush=True)
            return 0, ""
        done = _call(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stdout


def _call(command: list[str], **options) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]!r} is not installed on this machine; --dry_run prints the commands.") from None


# Asks Linux for SIGTERM when the parent dies (PR_SET_PDEATHSIG), which may be dead already, and becomes the command.
_BOUND = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
os.getppid() == int(sys.argv[1]) or sys.exit({128 + int(signal.SIGTERM)})
os.execvp(sys.argv[2], sys.argv[2:])
"""


def ending_with_launcher(command: Sequence[str]) -> list[str]:
    """The command, which gets SIGTERM when the launcher dies, even by SIGKILL: it would go on unseen. Linux only."""
    if sys.platform != "linux":
        return list(command)
    # Not by `preexec_fn`, which runs Python between fork and exec: that may hang if there are threads.
    return [sys.executable, "-S", "-c", _BOUND, str(os.getpid()), *command]


def job_code(codes: Sequence[int]) -> int:
    """One exit code for the processes of a job: a mistake outranks its consequences in the other processes."""
    for code in errors.FINAL:
        if code in codes:
            return code
    failures = {code for code in codes if code not in (0, errors.EXIT_PREEMPTED)}
    if not failures:
        return errors.EXIT_PREEMPTED if errors.EXIT_PREEMPTED in codes else 0
    return errors.EXIT_UNAVAILABLE if failures == {errors.EXIT_UNAVAILABLE} else 1
