"""Batch size, epochs and warm-up by the number of images, where the config leaves them to `auto`.

A rule of thumb, so that a small data set gets enough steps and a large one enough epochs. docs/results.md compares it with
settings around it, for 200 and 1,000 images.
"""

import logging
import math

from ml_collections import ConfigDict

from simclr_jax.errors import UserError
from simclr_jax.training import optim

log = logging.getLogger("simclr_jax")

AUTO = "auto"
# More images in a batch are more negatives; but it is to be a small part of all images, or every batch is nearly the same.
BATCH_SHARE = 1 / 8
SMALLEST_BATCH, LARGEST_BATCH = 32, 256
# A run has this many steps or this many epochs, whichever is more, up to a number of epochs.
STEPS, LEAST_EPOCHS, MOST_EPOCHS = 3000, 100, 800
# The learning rate rises over a tenth of the run, and at most over the ten epochs of the paper.
WARMUP_SHARE, MOST_WARMUP_EPOCHS = 0.1, 10.0


def batch_size(num_images: int, device_count: int) -> int:
    """About an eighth of the images, a power of two from 32 to 256; a multiple of the devices, and no more than all images."""
    size = 2 ** round(math.log2(max(num_images * BATCH_SHARE, 1)))
    size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
    size = -(-size // device_count) * device_count
    return min(size, num_images // device_count * device_count) or device_count


def epochs(num_images: int, batch: int) -> float:
    """3,000 steps or 100 epochs, whichever is more, but at most 800 epochs."""
    return float(min(max(math.ceil(STEPS * batch / num_images), LEAST_EPOCHS), MOST_EPOCHS))


def is_open(config: ConfigDict) -> bool:
    """Whether one of the three is left to "auto"."""
    return AUTO in (config.batch_size, config.epochs, config.optimizer.warmup_epochs)


def resolve(config: ConfigDict, num_images: int, device_count: int, earlier: ConfigDict | None = None) -> ConfigDict:
    """The config with numbers for `auto`; the same config where it has no `auto` of these.

    Args:
      config: of pretraining; `batch_size`, `epochs` and `optimizer.warmup_epochs` may be "auto".
      num_images: of the training set.
      device_count: over how many devices the batch is split.
      earlier: the config of the run that this one continues, whose numbers it keeps.

    Raises:
      UserError: for fewer than two images, or fewer than devices.
    """
    if num_images < max(2, device_count):
        raise UserError(
            f"{num_images} {'images are' if num_images != 1 else 'image is'} too few: {device_count} device(s) need at least "
            f"{max(2, device_count)}, because the other images of a batch are the negatives."
        )
    if not is_open(config):
        return config
    config = config.copy_and_resolve_references()
    optimizer = config.optimizer
    with config.ignore_type():  # from a word to a number
        if config.batch_size == AUTO:
            config.batch_size = earlier.batch_size if earlier else batch_size(num_images, device_count)
        if config.epochs == AUTO:
            config.epochs = earlier.epochs if earlier else epochs(num_images, config.batch_size)
        if optimizer.warmup_epochs == AUTO:
            shorter = min(WARMUP_SHARE * config.epochs, MOST_WARMUP_EPOCHS)
            optimizer.warmup_epochs = earlier.optimizer.warmup_epochs if earlier else shorter
    peak = optim.peak_learning_rate(optimizer.learning_rate, optimizer.scaling, config.batch_size)
    log.info(
        "%s images: batch %d, %g epochs, %s steps, %g epochs of warm-up, learning rate %.3g.",
        f"{num_images:,}",
        config.batch_size,
        config.epochs,
        f"{optim.total_steps(num_images, config.batch_size, config.epochs):,}",
        optimizer.warmup_epochs,
        peak,
    )
    return config
