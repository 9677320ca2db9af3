"""The same work as an Apache Beam pipeline, for what one machine cannot do: on Dataflow, Flink or Spark."""

from collections.abc import Iterator
import contextlib
import io
import shlex
from typing import Any

from simclr_jax.errors import UserError
from simclr_jax.preparing import shards
from simclr_jax.preparing.work import RunTasks
from simclr_jax.runtime import extras


def on_beam(runner: str, options: str) -> RunTasks:
    """Runs tasks as a pipeline, a task in an element.

    Args:
      runner: a name of Beam's, such as DataflowRunner; DirectRunner is this machine.
      options: further options of Beam, as on its command line: "--project=P --region=R".

    Raises:
      UserError: where Beam is missing, or does not know an option.
    """
    extras.check("apache_beam", f"--runner={runner} needs apache_beam, which is not installed", "beam")

    chosen = _options(runner, options)

    def run(tasks: list[shards.Task]) -> Iterator[tuple[int, list[str]]]:
        import apache_beam as beam

        if not tasks:
            return
        pipeline = beam.Pipeline(options=chosen)
        # Without the shuffle, a runner would give all tasks to one worker.
        _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(shards.write)
        pipeline.run().wait_until_finish()
        # The workers have written a table for each file, so what a task did is read from there.
        yield from map(shards.write, tasks)

    return run


def _options(runner: str, options: str) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            chosen = PipelineOptions([f"--runner={runner}", *shlex.split(options)])
            chosen.get_all_options()  # reads all of them; a mistake is printed, and ends the process
            create_runner(runner)
    except (ValueError, ImportError, AttributeError, SystemExit) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or error
        raise UserError(f"Beam refuses --runner={runner} --beam_options={options!r}: {reason}") from error
    return chosen
