"""The end of an input that is left early, as every training leaves it."""

import dataclasses
import threading
import time

import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import order
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.runtime.tensorflow import tf

SLOW = 3.0


@pytest.mark.slow
def test_closing_waits_for_no_image_that_is_being_read(image_folder):
    config = config_lib.pretrain()
    config.data.update(source="folder", root=str(image_folder), image_size=12)
    source = sources.open_source(config.data, "train")
    is_slow, reading = threading.Event(), threading.Event()

    def read(index):
        if is_slow.is_set():
            reading.set()
            time.sleep(SLOW)
        return source.fetch(index)

    stream = pipeline.train_batches(
        dataclasses.replace(source, fetch=lambda index: tf.ensure_shape(tf.py_function(read, [index], tf.string), [])),
        config.augment,
        num_views=2,
        size=12,
        shard=order.HostShard(1),
        seed=0,
        bad_images=pipeline.BadImages(source, 1.0),
    )
    next(stream)
    is_slow.set()
    while not reading.is_set():
        next(stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < SLOW / 3
    assert any(thread.name == "end of input" for thread in threading.enumerate()), "which waits in the background"
