"""The same work as an Apache Beam pipeline, for what one machine cannot do: on Dataflow, Flink or Spark."""

from collections.abc import Iterator
import shlex

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

    def run(tasks: list[shards.Task]) -> Iterator[tuple[int, list[str]]]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if not tasks:
            return
        try:
            chosen = PipelineOptions([f"--runner={runner}", *shlex.split(options)])
            pipeline = beam.Pipeline(options=chosen)
        except (ValueError, SystemExit) as error:
            raise UserError(f"Beam refuses --runner={runner} --beam_options={options!r}: {error}") from error
        # Without the shuffle, a runner would give all tasks to one worker.
        _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(shards.write)
        pipeline.run().wait_until_finish()
        # The workers have written a table for each file, so what a task did is read from there.
        yield from map(shards.write, tasks)

    return run
