"""What all binaries do around their work: flags, messages instead of tracebacks, exit codes."""

from collections.abc import Callable
import logging
import os
import pathlib
import sys
import traceback

from absl import app
from absl import flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from simclr_jax import errors
from simclr_jax.runtime import distributed
from simclr_jax.runtime import run_monitor

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

log = logging.getLogger("simclr_jax")


def define_config(argv: list[str], values: flags.FlagValues, default: str | None = None) -> None:
    """The flag `--config`, and one for each of the fields of the config that `argv` names."""
    text = "A config file: configs/NAME.py[:argument=value,...]. Its fields are flags too: --config.field=value."
    config_flags.DEFINE_config_file("config", default, text, flag_values=values, sys_argv=argv)


def parse_flags(
    argv: list[str], values: flags.FlagValues, define: Callable[[list[str], flags.FlagValues], None]
) -> None:
    """Defines flags by `define(argv, values)`, `--config` among them, and fills `values` from a command line.

    Raises:
      UserError: for an unknown flag or field, with the nearest name; for a malformed one; for a config that is missing.
    """
    for argument in argv[1:]:
        # A config file that is missing would be noticed only when its first field is read, by a puzzling error.
        name, _, value = argument.lstrip("-").partition("=")
        if name == "config" and value and not pathlib.Path(value.split(":")[0]).is_file():
            raise errors.UserError(f"--config={value}: no such file. The configs are in {CONFIGS}.")
    try:
        define(argv, values)
        rest = values(argv)
    except (AttributeError, KeyError) as error:  # --config.some.unknown=1
        text = " ".join(str(error.args[0]).replace("\\n", " ").split()).strip("'\"")
        raise errors.UserError(f"a --config override names a field that does not exist: {text}") from error
    except (flags.Error, TypeError) as error:
        raise errors.UserError(str(error)) from error
    if len(rest) > 1:
        raise errors.UserError(f"unknown argument {rest[1]!r}: flags begin with --, as in --workdir=DIR.")
    if values["config"].value is None:
        raise errors.UserError(f"--config is missing, as in --config={CONFIGS / 'digits.py'}.")


class Binary:
    """A command line: its flags and the function that does the work.

    Args:
      run: called as `run(config, workdir, monitor=...)`, or with `--pretrained` as its third argument.
      default_config: name of the file in `configs/` that is used without `--config`; None where one must be given.
      pretrained: whether there is a flag `--pretrained`.
    """

    def __init__(self, run: Callable[..., dict], *, default_config: str | None, pretrained: bool):
        self._run = run
        self._default = str(CONFIGS / default_config) if default_config else None
        self._pretrained = pretrained

    def _define_flags(self, argv: list[str], values: flags.FlagValues) -> None:
        define_config(argv, values, self._default)
        text = "Folder for checkpoints, metrics and results. The same folder continues a run."
        flags.DEFINE_string("workdir", None, text, flag_values=values)
        text = "HOST:PORT of process 0, for several processes that no cluster (Cloud TPU, GKE, SLURM) has started."
        flags.DEFINE_string("coordinator_address", None, text, flag_values=values)
        flags.DEFINE_integer("num_processes", None, "How many processes take part.", flag_values=values)
        flags.DEFINE_integer("process_id", None, "The number of this process, from 0.", flag_values=values)
        text = "Seconds until all processes have to be there."
        flags.DEFINE_integer("initialization_timeout", 300, text, lower_bound=1, flag_values=values)
        text = (
            "Where compiled programs are kept for a faster start; default: WORKDIR/compilation_cache. Empty: nowhere."
        )
        flags.DEFINE_string("compilation_cache", None, text, flag_values=values)
        text = "first:last, training steps of which a trace for TensorBoard or xprof is written to WORKDIR/profile."
        flags.DEFINE_string("profile_steps", None, text, flag_values=values)
        text = "Seconds without a finished step after which the stacks of all threads are printed; 0: never."
        flags.DEFINE_float("hang_timeout", 1800.0, text, lower_bound=0.0, flag_values=values)
        text = "End the process then, so that its launcher starts the job again."
        flags.DEFINE_bool("hang_exit", False, text, flag_values=values)
        if self._pretrained:
            text = "Workdir of a pretraining run, or one checkpoint in it."
            flags.DEFINE_string("pretrained", None, text, flag_values=values)

    def parse(self, argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
        """Defines the flags and fills `values` from a command line, `argv[0]` being the program.

        Raises:
          UserError: for an unknown flag or field, with the nearest name; for a missing or malformed one.
        """
        parse_flags(argv, values, self._define_flags)
        run_monitor.parse_profile_steps(values["profile_steps"].value)
        if not values["workdir"].value:
            raise errors.UserError("--workdir is missing: the folder for checkpoints, metrics and results.")

    def work(self, values: flags.FlagValues = flags.FLAGS) -> dict:
        """Does the work with parsed flags."""
        workdir = epath.Path(values["workdir"].value)
        how = run_monitor.RunMonitor(
            profile_steps=run_monitor.parse_profile_steps(values["profile_steps"].value),
            hang_timeout=values["hang_timeout"].value,
            hang_exit=values["hang_exit"].value,
        )
        arguments = [values["config"].value, workdir]
        if self._pretrained:
            arguments.append(values["pretrained"].value)
        how.arm()
        try:
            return self._run(*arguments, monitor=how)
        finally:
            how.disarm()

    def _start_and_work(self) -> None:
        values = flags.FLAGS
        distributed.initialize(
            values["coordinator_address"].value,
            values["num_processes"].value,
            values["process_id"].value,
            values["initialization_timeout"].value,
        )
        if not distributed.is_primary():
            log.setLevel(logging.WARNING)  # what happens is told once; what goes wrong, by every process
        cache = values["compilation_cache"].value
        if cache is None:
            cache = str(epath.Path(values["workdir"].value) / "compilation_cache")
        run_monitor.use_compilation_cache(cache)
        self.work()

    def call(self, *arguments: str) -> dict:
        """As the command line with these arguments, but within this process."""
        values = flags.FlagValues()
        self.parse(["call", *arguments], values)
        return self.work(values)

    def main(self) -> None:
        """As a program: messages instead of tracebacks, and exit codes.

        0 done, 2 the user's mistake, 3 the loss became non-finite, 69 the other processes did not come, 75 preempted:
        run the same command again.
        """

        def parse(argv: list[str]) -> list[str]:
            try:
                self.parse(argv)
            except errors.UserError as error:
                sys.exit(_fail(error))
            return argv[:1]

        def guarded(argv: list[str]) -> None:
            del argv
            exit_at_once(self._start_and_work)

        set_up_logging()
        app.run(guarded, flags_parser=parse)


def exit_at_once(work: Callable[[], object]) -> None:
    """Ends the process after `work()`, with its exit code.

    Not by sys.exit: threads of TensorFlow's input pipeline, still reading ahead, can hold up or crash a normal exit.
    Everything worth keeping is on disk by then.
    """
    code = 0
    try:
        work()
        distributed.shutdown()
    except errors.UserError as error:
        code = _fail(error)
        distributed.linger()
    except (errors.NonFiniteLoss, errors.Preempted) as error:  # on all processes alike
        code = _fail(error)
        distributed.shutdown()
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the newest checkpoint", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def set_up_logging() -> None:
    """This project's messages to standard error, a line each; of the libraries only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler(_TqdmStream())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class _TqdmStream:
    """Standard error, without tearing a progress bar apart."""

    def write(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()
