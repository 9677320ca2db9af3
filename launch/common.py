"""What the launchers share: their command lines, and commands that are printed before they are run."""

from collections.abc import Callable
from collections.abc import Sequence
import shlex
import subprocess
import sys

from absl import flags

from simclr_jax import errors
from simclr_jax.errors import UserError


def parse(
    argv: Sequence[str], define_flags: Callable[[flags.FlagValues], None], doc: str, verbs: Sequence[str] = ()
) -> tuple[str, flags.FlagValues, list[str]]:
    """The verb, the flags, and what stands behind `--`.

    Args:
      argv: the command line, `argv[0]` being the program.
      define_flags: defines the launcher's flags.
      doc: printed by --help, before the flags.
      verbs: the first argument has to be one of them; none: there is no verb.

    Raises:
      UserError: for unknown arguments.
    """
    mine, behind = list(argv), []
    if "--" in mine:
        mine, behind = mine[: mine.index("--")], mine[mine.index("--") + 1 :]
    values = flags.FlagValues()
    define_flags(values)
    if "--help" in mine:
        print(f"{doc}\n{values.get_help()}")
        sys.exit(0)
    verb = ""
    if verbs:
        verb = mine.pop(1) if len(mine) > 1 else ""
        if verb not in verbs:
            raise UserError(f"{verb or 'nothing'!r} is no verb of this launcher: one of {', '.join(verbs)}.")
    try:
        rest = values(mine)
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(rest) > 1:
        raise UserError(f"unknown argument {rest[1]!r}: flags begin with --, and the command to run stands behind --.")
    return verb, values, behind


def require(values: flags.FlagValues, **examples: str) -> None:
    """A clear error where a flag has no value; `examples` are flags with a value that would do."""
    for name, example in examples.items():
        if not values[name].value:
            raise UserError(f"--{name} is missing, as in --{name}={example}.")


def check_command(command: Sequence[str]) -> None:
    """A clear error where nothing stands behind `--`."""
    if not command:
        raise UserError("no command: put it behind --, as in `-- python -m simclr_jax.pretrain ...`.")


def check_workdir(command: Sequence[str]) -> None:
    """Refuses a relative workdir: on each worker it would be another folder."""
    for word in command:
        name, _, value = word.lstrip("-").partition("=")
        if name == "workdir" and not (value.startswith("/") or "://" in value):
            raise UserError(
                f"--workdir={value} would be another folder on every worker, and gone with the slice: give gs://BUCKET/..., "
                "or an absolute path that all workers mount."
            )


def check_settings(settings: Sequence[str]) -> None:
    """Refuses values of --env that are not NAME=VALUE."""
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--env={setting}: give NAME=VALUE.")


def main(run: Callable[[list[str]], int]) -> None:
    """`run` as a program: messages instead of tracebacks, and exit codes."""
    try:
        code = run(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


class Shell:
    """Runs commands of a tool such as gcloud, and prints each first; with `dry_run` it only prints."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def run(self, command: list[str], *, text: str | None = None, check: bool = True, quiet: bool = False) -> int:
        """The exit code of a command, whose output goes to the terminal.

        Args:
          command: program and arguments.
          text: its standard input.
          check: raise where it fails.
          quiet: do not print it.

        Raises:
          UserError: where the program is not installed, or fails.
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
        """Exit code and standard output of a command, which is not printed but in a dry run, where it is not run."""
        if self.dry_run:
            print(f"$ {shlex.join(command)}", flush=True)
            return 0, ""
        done = _call(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stdout


def _call(command: list[str], **options) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]!r} is not installed on this machine; --dry_run prints what would run.") from None


def job_code(codes: Sequence[int]) -> int:
    """One exit code for a job's processes: a mistake outranks its consequences in the other processes."""
    for code in errors.FINAL:
        if code in codes:
            return code
    if all(code == 0 for code in codes):
        return 0
    if all(code in (0, errors.EXIT_PREEMPTED) for code in codes):
        return errors.EXIT_PREEMPTED
    others = [code for code in codes if code not in (0, errors.EXIT_PREEMPTED)]
    return errors.EXIT_UNAVAILABLE if set(others) == {errors.EXIT_UNAVAILABLE} else 1
