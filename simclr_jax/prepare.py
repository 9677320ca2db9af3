"""Images of any kind into ArrayRecord files, which training reads at random from a disk or a bucket.

    python -m simclr_jax.prepare --images=PHOTOS --output=records
    python -m simclr_jax.prepare --images='shards/train-{0000..0146}.tar' --output=records
    python -m simclr_jax.prepare --images=huggingface/data --output=gs://BUCKET/records
    python -m simclr_jax.prepare --images=tfds:imagenet2012 --output=records
    python -m simclr_jax.prepare --images=gs://BUCKET/photos --output=gs://BUCKET/records --runner=DataflowRunner \\
        --beam_options="--project=P --region=R --temp_location=gs://BUCKET/tmp --setup_file=./setup.py"

Then train with the config fields data.source=records and data.root=records. It needs `pip install 'simclr_jax[records]'`; on
Beam `pip install 'simclr_jax[records,beam]'`.

An image becomes a JPEG of quality 95, upright and at most 512 px on its shorter side. One that is small enough, and that
training can read as it is, is not touched. Folders train, val and test, with a folder for each class in them, become splits
with labels; so do tars and Parquet files whose names have these words. If it is interrupted, the same command continues. It
ends with an index of names and labels; until then training refuses the folder.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("prepare")  # answers --help and mistakes before the imports below; does not return

import logging
import os
from typing import Any

from absl import flags
from etils import epath

from simclr_jax.preparing import work
from simclr_jax.preparing.beam import on_beam
from simclr_jax.preparing.inputs import Wanted
from simclr_jax.preparing.inputs import find
from simclr_jax.runtime.heartbeat import working

log = logging.getLogger("simclr_jax")


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Prepares the images of a command line. Returns the content of `records.json`.

    Raises:
      UserError: for a wrong flag, images that are not there, or an output with something else.
    """
    run_tasks = (
        on_beam(values.runner, values.beam_options)
        if values.runner
        else work.in_processes(values.processes or os.cpu_count() or 1)
    )
    wanted = Wanted(
        images=values.images,
        image_column=values.image_column,
        label_column=values.label_column,
        data_dir=values.data_dir,
        shard_images=values.shard_images,
    )
    with working(f"listing {values.images}"):
        inputs = find(wanted)
    output = epath.Path(values.output)
    manifest = work.prepare(inputs, output, values.shorter_side, run_tasks, values.overwrite)
    for name, split in manifest["splits"].items():
        classes = f", {len(split['class_names'])} classes" if split["class_names"] else ", no labels"
        log.info("%s: %d images, %.1f MB%s.", output / name, split["images"], split["bytes"] / 1e6, classes)
    log.info("Train on it: --config.data.source=records --config.data.root=%s", output)
    return manifest
