"""What all binaries do around their work: flags, messages instead of tracebacks, exit codes."""

from collections.abc import Callable
import logging
import os
import pathlib
import sys

from absl import app
from absl import flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from simclr_jax import errors
from simclr_jax import parallel

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"

log = logging.getLogger("simclr_jax")


def define_flags(default_config: str | None, *, pretrained: bool) -> None:
    """`--config`, `--workdir` and, for evaluations, `--pretrained`.

    Args:
      default_config: name of the file in `configs/` that is used without `--config`; None where one must be given.
      pretrained: whether there is a flag `--pretrained`.
    """
    default = str(CONFIGS / default_config) if default_config else None
    config_flags.DEFINE_config_file("config", default, "A config file: configs/NAME.py[:argument=value,...].")
    flags.DEFINE_string(
        "workdir", None, "Folder for checkpoints, metrics and results. The same folder continues a run."
    )
    if pretrained:
        flags.DEFINE_string("pretrained", None, "Workdir of a pretraining run, or one checkpoint in it.")


def _parse_flags(argv: list[str]) -> list[str]:
    for argument in argv[1:]:
        # A config that is missing would be noticed only when its first field is read, by a puzzling error.
        name, _, value = argument.lstrip("-").partition("=")
        if name == "config" and value and not pathlib.Path(value.split(":")[0]).is_file():
            raise errors.UserError(f"--config={value}: no such file. The configs are in {CONFIGS}.")
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # --config.some.unknown=1
        text = str(error.args[0]).strip("'\"").replace("\\n", " ").replace("\n", " ")
        raise errors.UserError(f"a --config override names a field that does not exist: {text}") from error
    except (flags.Error, TypeError) as error:
        raise errors.UserError(str(error)) from error


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(run: Callable[..., dict]) -> None:
    """Parses the flags, calls `run(config, workdir, [pretrained])` and turns errors into messages and exit codes.

    Exit codes: 0 done, 2 the user's mistake, 3 the loss became non-finite, 75 preempted: run the same command again.
    """

    def work(argv: list[str]) -> None:
        if len(argv) > 1:
            raise errors.UserError(f"unknown argument {argv[1]!r}: flags begin with --.")
        values = flags.FLAGS
        if values["config"].value is None:
            raise errors.UserError(f"--config is missing, as in --config={CONFIGS / 'digits.py'}.")
        if not values.workdir:
            raise errors.UserError("--workdir is missing: the folder for checkpoints, metrics and results.")
        parallel.initialize()
        arguments = [values.config, epath.Path(values.workdir)]
        if "pretrained" in values:
            arguments.append(values.pretrained)
        run(*arguments)

    def guarded(argv: list[str]) -> None:
        try:
            code = work(argv)
        except (errors.UserError, errors.NonFiniteLoss, errors.Preempted) as error:
            code = _fail(error)
        # Not sys.exit: threads of TensorFlow's input pipeline, still reading ahead, can hold up or crash a normal exit
        # after a failure. Everything worth keeping is on disk here.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

    def parse(argv: list[str]) -> list[str]:
        try:
            return _parse_flags(argv)
        except errors.UserError as error:
            sys.exit(_fail(error))

    set_up_logging()
    app.run(guarded, flags_parser=parse)


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
