"""Starts a command: parse, then import, then run; messages instead of tracebacks; exit codes.

Every command module begins with

    if __name__ == "__main__":
        cli.main("NAME")  # does not return

before its other imports, so that --help and mistakes are answered before JAX and TensorFlow are imported.
"""

import ast
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import importlib
import logging
import os
import sys
import traceback
from typing import Any

from absl import flags
from etils import epath

from simclr_jax import errors
from simclr_jax.config import KINDS
from simclr_jax.runtime import help as help_lib
from simclr_jax.runtime import trackers
from simclr_jax.runtime.flags import HELP
from simclr_jax.runtime.flags import define_config
from simclr_jax.runtime.flags import define_init_from
from simclr_jax.runtime.flags import define_run
from simclr_jax.runtime.flags import parse_profile_steps
from simclr_jax.runtime.flags import parse_run
from simclr_jax.runtime.tools import TOOLS
from simclr_jax.runtime.tools import parse_tool

log = logging.getLogger("simclr_jax")

# Commands that take the config of another kind of run.
KIND_OF = {"preview": "pretrain"}


def main(command: str) -> None:
    """Runs a command as a program. Ends the process.

    Exit codes: 0 done, 2 the user's mistake, 3 the loss became non-finite, 69 the other processes did not come, 70 the TPU
    compiler crashed, 74 a file cannot be written, 75 preempted: run the same command again.
    """
    values = flags.FlagValues()
    set_up_logging()
    if any(word in HELP for word in sys.argv[1:]):
        help_lib.show(help_of(command))
        sys.exit(0)
    try:
        parse(command, sys.argv, values)
    except errors.UserError as error:
        sys.exit(_fail(error))
    flag = next((name for name in ("output", "workdir") if name in values and values[name].value), None)
    exit_at_once(lambda: _start(command, values), f"--{flag}={values[flag].value}" if flag else None)


def parse(command: str, argv: Sequence[str], values: flags.FlagValues) -> None:
    """Fills `values` from the command line of a command.

    Raises:
      UserError: for any mistake in it.
    """
    if command in TOOLS:
        parse_tool(argv, values, command)
    else:
        parse_run(argv, values, KIND_OF.get(command, command))


def help_of(command: str) -> str:
    """The text of --help."""
    values = flags.FlagValues()
    doc = doc_of(f"simclr_jax.{command}")
    if command in TOOLS:
        TOOLS[command].define([command], values)
        return help_lib.text_of(doc, values, "pretrain" if TOOLS[command].config else None)
    kind = KIND_OF.get(command, command)
    define_config([command], values)
    define_run(values, KINDS[kind].evaluates)
    if command == "pretrain":
        define_init_from(values)
    return help_lib.text_of(doc, values, kind)


def doc_of(module: str) -> str:
    """The docstring of a module, without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    with open(spec.origin, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())) or ""


def call(command: str, *words: str) -> Any:
    """Runs the command line `python -m simclr_jax.COMMAND WORDS` within this process and returns its results.

    Raises:
      UserError: for a mistake in it.
    """
    values = flags.FlagValues()
    parse(command, [command, *words], values)
    return work(command, values)


def work(command: str, values: flags.FlagValues) -> Any:
    """Runs a command with parsed flags."""
    module = importlib.import_module(f"simclr_jax.{command}")
    if command in TOOLS:
        return module.run(values)
    from simclr_jax.runtime import distributed
    from simclr_jax.runtime import lock
    from simclr_jax.runtime.run_monitor import RunMonitor

    names = trackers.parse_names(values.tracker) if distributed.is_primary() else []
    monitor = RunMonitor(
        profile_steps=parse_profile_steps(values.profile_steps),
        hang_timeout=values.hang_timeout,
        hang_exit=values.hang_exit,
        memory_check=values.memory_check,
        accept_new_data=values.accept_new_data,
        trackers=trackers.Trackers(names),
    )
    arguments = [values.config, epath.Path(values.workdir)]
    if KINDS[KIND_OF.get(command, command)].evaluates:
        arguments.append(values.pretrained)
    weights = {"init_from": values.init_from, "init_head": values.init_head} if command == "pretrain" else {}
    results: Any = None
    code: int | None = 1
    monitor.arm()
    try:
        with lock.held(epath.Path(values.workdir)):
            results, code = module.run(*arguments, monitor=monitor, **weights), 0
        return results
    except (errors.UserError, errors.NonFiniteLoss, errors.Preempted) as error:
        code = error.exit_code
        raise
    except KeyboardInterrupt:  # at once
        code = None
        raise
    finally:
        monitor.disarm()
        if code is not None:
            monitor.trackers.finish(results, code)


def _start(command: str, values: flags.FlagValues) -> Any:
    if command in TOOLS and not TOOLS[command].processes:
        return work(command, values)
    from simclr_jax.runtime import distributed
    from simclr_jax.runtime import run_monitor

    distributed.initialize(
        values.coordinator_address,
        values.num_processes,
        values.process_id,
        values.initialization_timeout,
    )
    distributed.catch_signals()
    if not distributed.is_primary():
        log.setLevel(logging.WARNING)  # progress is printed once, warnings by every process
    cache = values.compilation_cache
    if cache is None:
        cache = str(epath.Path(values.workdir) / "compilation_cache")
    run_monitor.use_compilation_cache(cache)
    return work(command, values)


def exit_at_once(work: Callable[[], object], written: str | None = None) -> None:
    """Ends the process after `work()`, with its exit code. `written`: where it writes, for messages about a disk.

    Not by sys.exit: threads of TensorFlow's input pipeline, which still read ahead, can delay or crash a normal exit.
    Everything that has to be kept is on disk by then.
    """
    from simclr_jax.runtime import distributed
    from simclr_jax.runtime import run_monitor
    from simclr_jax.runtime import storage

    code = 0
    try:
        work()
        distributed.shutdown()
    except errors.UserError as error:
        code = _fail(error)
        distributed.linger()
    except (errors.NonFiniteLoss, errors.Preempted, errors.CompilerCrashed) as error:  # on all processes alike
        code = _fail(error)
        distributed.shutdown()
    except errors.StorageError as error:
        code = _fail(error)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from what is saved", file=sys.stderr)
        code = 130
    except Exception as error:
        if (problem := storage.problem(error, written)) is not None:
            code = _fail(errors.StorageError(problem))
        elif (problem := storage.unreachable(error)) is not None:
            print(f"error: {problem}", file=sys.stderr)
            code = 1  # another try may reach it
        else:
            traceback.print_exc()
            code = 1
    with contextlib.suppress(OSError):
        run_monitor.seal_compilation_cache()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(error: Any) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def set_up_logging() -> None:
    """This project's messages to standard error, a line each; of the libraries only warnings."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.set_stderrthreshold("warning")
    handler = logging.StreamHandler(_TqdmStream())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class _TqdmStream:
    """Standard error, written around a progress bar."""

    def write(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        sys.stderr.flush()
