"""One page about some runs: results against baselines, curves, pictures, confusions, and how their configs differ.

    python -m simclr_jax.report --workdirs=runs/quickstart                                 # all runs in a folder
    python -m simclr_jax.report --workdirs=runs/a,runs/a_probe,runs/b --output=a_and_b.html

Reads what the commands have written to their workdirs, at any depth below the folders that are named, and writes one HTML
file that needs nothing else: no server, no network, no script. Nothing is computed again, so no accelerator is needed. A
run that is not finished is shown as far as it is.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("report")  # answers --help and mistakes before the imports below; does not return

import logging
import os

from absl import flags
from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.reporting import page
from simclr_jax.runtime import earlier_output
from simclr_jax.runtime import files
from simclr_jax.runtime.heartbeat import working
from simclr_jax.workdir import runs as saved_runs
from simclr_jax.workdir.runs import SavedRun

log = logging.getLogger("simclr_jax")


def run(values: flags.FlagValues) -> list[SavedRun]:
    """Writes the report of a command line and returns the runs in it."""
    folders = [folder for value in values.workdirs for folder in split_folders(value)]
    return write(folders, values.output, values.title)


def split_folders(value: str) -> list[str]:
    """Folders separated by commas. The name of a folder may have commas itself, as the runs of a sweep do."""
    # The command line expands `~` at the beginning only.
    folders, words = [], [os.path.expanduser(word) for word in value.split(",")]
    while words:
        # The longest run of words that is a folder; a word that is none is reported later.
        size = next((n for n in range(len(words), 0, -1) if epath.Path(",".join(words[:n])).is_dir()), 1)
        folders.append(",".join(words[:size]))
        words = words[size:]
    return folders


def write(folders: list[str], output: str, title: str | None = None) -> list[SavedRun]:
    """Writes the page about all runs in some folders, and returns them.

    Raises:
      UserError: for a folder that does not exist or holds no run, for an output whose folder does not exist, and for one that
        is there and is no report.
    """
    target = epath.Path(output)
    if not target.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {target.parent}.")
    earlier_output.check_file(target, "report")
    with working(f"looking for runs in {', '.join(folders)}"):
        runs = saved_runs.find(folders)
    with working(f"drawing the report of {len(runs)} runs"):
        files.write_atomically(target, page.render(runs, title or ", ".join(folders)).encode())
    log.info("%s: %d runs, %.1f MB.", output, len(runs), target.stat().length / 1e6)
    return runs
