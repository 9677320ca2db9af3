"""What `simclr_jax.embed` and `simclr_jax.predict` have in common."""

import logging

from absl import flags
from etils import epath
import jax
from ml_collections import ConfigDict

from simclr_jax.errors import UserError
from simclr_jax.inference import stream
from simclr_jax.inference.encoder import load
from simclr_jax.inference.named_images import open_images
from simclr_jax.inference.network import PROBABILITIES
from simclr_jax.runtime import distributed
from simclr_jax.runtime import earlier_output
from simclr_jax.runtime import files
from simclr_jax.runtime import sharding
from simclr_jax.runtime.run_monitor import RunMonitor

log = logging.getLogger("simclr_jax")


def run(values: flags.FlagValues, place: str, flag: str, result: str) -> dict[str, int]:
    """Runs an encoder over the images of a command line and writes the table.

    Args:
      values: the flags of `runtime.tools`.
      place: the workdir or checkpoint.
      flag: that named it.
      result: a name of features, or `PROBABILITIES`.
    """
    output = epath.Path(values.output)
    if output.exists() and not values.overwrite:  # of a bucket; local files were looked up before
        raise UserError(f"--output={values.output} exists: --overwrite replaces it.")
    earlier_output.check_file(output, "predict" if result == PROBABILITIES else "embed")
    files.check_writable(output, "--output")
    mesh = sharding.make_mesh(ConfigDict({"data": -1, "fsdp": 1}))
    encoder = load(place, compute_dtype=values.compute_dtype, mesh=mesh, flag=flag)
    if result == PROBABILITIES:
        encoder.check_classifier()
    else:
        encoder.features = result
    data = encoder.config.data
    data_dir = values.data_dir or (data.root if data.source == "tfds" else None)
    source = open_images(values.images, data_dir)
    log.info(
        "%s of %d images, on %d %s device(s).", encoder, source.num_examples, jax.device_count(), jax.default_backend()
    )
    job = stream.Job(
        encoder=encoder,
        source=source,
        images=values.images,
        result=result,
        output=output,
        keep_unreadable=values.unreadable == "null",
        overwrite=values.overwrite,
        batch_size=sharding.rounded_up(values.batch_size, mesh),
    )
    counts = stream.run(job, RunMonitor())
    if distributed.is_primary():
        bad = f"; {counts['unreadable']} of them cannot be read" if counts["unreadable"] else ""
        log.info("%s: %d images%s.", values.output, counts["images"], bad)
    return counts
