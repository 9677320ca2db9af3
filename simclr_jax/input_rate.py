"""Measure how many views a second this machine's input pipeline makes, without training.

    python -m simclr_jax.input_rate --config=configs/imagenet.py --config.data.root=gs://BUCKET/tfds
    python -m simclr_jax.input_rate --config=configs/folder.py:PHOTOS --seconds=30

Reads, decodes and augments the images of a pretraining config as a run does, with the augmentation on the host and with all but
the crop left to the device (`config.augment.where`). A training step needs two views of each image. The rates for each core are
what `simclr_jax.plan --input_rate=HOST,DEVICE` takes. Data that is small enough to be in device memory (`config.data.resident`)
needs no input at all.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("input_rate")  # answers --help and mistakes before the imports below; does not return


import json
import logging
import os
import time

from absl import flags
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.augment.image_files import Decoding
from simclr_jax.config import checks as config_checks
from simclr_jax.config.choices import PLACES
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data.order import HostShard
from simclr_jax.runtime.heartbeat import working

log = logging.getLogger("simclr_jax")

# Images of a batch, where the config leaves it to "auto"; batches before the clock starts.
BATCH, WARM_UP = 64, 3


def run(values: flags.FlagValues) -> dict[str, dict[str, float]]:
    """Measures the input of a command line; returns for "host" and "device" the views a second, in all and for a core.

    Raises:
      UserError: for a wrong config or wrong data.
    """
    config = values.config
    config_checks.check_fields(config, config_lib.pretrain())
    hint = "set it in the config file or on the command line."
    config_checks.require(config, "data.source", "data.image_size", hint=hint)
    config_checks.check_values(config, 1)
    source = sources.open_source(config.data, "train")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rates = {}
    for where in PLACES:
        with working(f"measuring with the augmentation on the {where}"):
            rate = views_per_second(config, source, where, values.seconds)
        rates[where] = {"views_per_s": rate, "per_core": rate / cores}
    if values.json:
        print(json.dumps(rates | {"cores": cores}), flush=True)
        return rates
    print(f"{source.name}: {source.num_examples:,} images, views of {config.data.image_size} px, {cores} cores")
    for where, found in rates.items():
        print(f"augmentation on the {where:6}: {found['views_per_s']:10,.0f} views/s, {found['per_core']:8,.0f} a core")
    given = ",".join(f"{found['per_core']:.0f}" for found in rates.values())
    print(f"For a TPU slice: python -m simclr_jax.plan --input_rate={given} --topology=... --config=...", flush=True)
    return rates


def views_per_second(config: ConfigDict, source: sources.Source, where: str, seconds: float) -> float:
    """The rate of the input alone.

    Args:
      config: of pretraining.
      source: the training images.
      where: "host" or "device": where everything after the crop runs; on the device it is not measured.
      seconds: how long to measure.
    """
    augment = config.augment.copy_and_resolve_references()
    augment.where = where
    size = config.batch_size if isinstance(config.batch_size, int) else BATCH
    batches = pipeline.train_batches(
        source,
        augment,
        num_views=2,
        size=config.data.image_size,
        shard=HostShard(min(size, BATCH)),
        seed=config.seed,
        bad_images=pipeline.BadImages(source, config.data.max_bad_fraction),
        decoding=Decoding.of(config.data),
    )
    for _ in range(WARM_UP):
        next(batches)
    began, views = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or not views:
        views += next(batches)["views"].shape[0] * 2
    batches.close()  # type: ignore[attr-defined]  # a generator; its threads would read ahead
    return views / passed
