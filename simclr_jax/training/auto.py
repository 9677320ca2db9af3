"""Fill in what a config of pretraining leaves to "auto", but for `microbatches` (see `training.memory`)."""

import logging

from ml_collections import ConfigDict

from simclr_jax.training import by_images
from simclr_jax.training.by_images import AUTO

log = logging.getLogger("simclr_jax")


def is_open(config: ConfigDict) -> bool:
    """Whether something is left to "auto"."""
    return by_images.is_open(config) or config.augment.where == AUTO


def resolve(
    config: ConfigDict, num_images: int, device_count: int, platform: str, earlier: ConfigDict | None = None
) -> ConfigDict:
    """The config with values for `auto`, which the run logs; the same config where nothing is open.

    Args:
      config: of pretraining.
      num_images: of the training set.
      device_count: over how many devices the batch is split.
      platform: of the devices: "cpu", "gpu" or "tpu".
      earlier: the config of the run that this one continues, whose values it keeps.

    Raises:
      UserError: for fewer than two images, or fewer than devices.
    """
    config = by_images.resolve(config, num_images, device_count, earlier)
    if config.augment.where != AUTO:
        return config
    config = config.copy_and_resolve_references()
    config.augment.where = earlier.augment.where if earlier else place_of_augmentation(platform)
    log.info("The augmentation runs on the %s (config.augment.where=auto).", config.augment.where)
    return config


def place_of_augmentation(platform: str) -> str:
    """On an accelerator it takes a small part of the step, and the host two to three times less work for each view
    (docs/benchmarks.md); on a CPU both are the same processor, and TensorFlow's operations are the faster ones."""
    return "host" if platform == "cpu" else "device"
