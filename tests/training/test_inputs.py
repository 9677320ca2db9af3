"""Batches on their way to the network: the same views on one and eight devices, from the host, in parts."""

from helpers import mesh_of
import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data.resident import Resident
from simclr_jax.runtime import sharding
from simclr_jax.training import inputs

BATCH, SIZE = 16, 16
RNG = np.random.default_rng(0)
CROPS = RNG.integers(0, 255, (BATCH, 2, SIZE, SIZE, 3), dtype=np.uint8)
IMAGES = RNG.integers(0, 255, (50, 20, 20, 3), dtype=np.uint8)


def config_of(kind):
    config = config_lib.pretrain()
    config.batch_size = BATCH
    config.data.image_size = SIZE
    config.augment.where = "device" if kind == "device" else "host"
    config.data.resident = kind == "resident"
    return config


def batch_of(kind, mesh):
    if kind == "resident":
        return Resident.put(IMAGES, np.arange(50, dtype=np.int32), mesh)
    return sharding.to_global({"views": CROPS, "label": np.arange(BATCH, dtype=np.int32)}, mesh)


def look(kind, devices, step=3):
    mesh = mesh_of(devices)
    return inputs.look(config_of(kind), mesh, batch_of(kind, mesh), step)


def test_what_the_host_has_augmented_is_seen_as_it_is():
    np.testing.assert_array_equal(look("host", 8), CROPS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["device", "resident"])
def test_views_made_on_the_device_depend_on_the_position_alone(kind):
    one, eight = look(kind, 1), look(kind, 8)
    assert one.shape == (BATCH, 2, SIZE, SIZE, 3)
    assert np.max(np.abs(one.astype(int) - eight)) <= 1, "rounding to a level, at most"
    assert not np.array_equal(one, look(kind, 1, step=4))
    assert not np.array_equal(one[:, 0], one[:, 1])


def test_a_resident_batch_is_a_part_of_a_permutation():
    mesh = mesh_of(8)
    resident = batch_of("resident", mesh)

    @jax.jit
    def labels(resident, step):
        return inputs.read(resident, inputs.positions(step, 25), 0)[1]

    first, second, third = (np.asarray(labels(resident, np.int32(step))) for step in range(3))
    assert sorted([*first, *second]) == list(range(50))
    assert not np.array_equal(third, first)
