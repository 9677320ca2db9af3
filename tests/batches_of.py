"""Training batches of a source, and whether two lists of them are the same."""

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import order
from simclr_jax.data import pipeline

SIZE = 12


def batches(source, *, start_step=0, count=4, batch_size=8, host=0, hosts=1):
    stream = pipeline.train_batches(
        source,
        config_lib.pretrain().augment,
        num_views=2,
        size=SIZE,
        shard=order.HostShard(batch_size, start_step, None, host, hosts),
        seed=0,
        bad_images=pipeline.BadImages(source, 0.01),
    )
    return [next(stream) for _ in range(count)]


def assert_same(actual, expected):
    for one, two in zip(actual, expected, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
