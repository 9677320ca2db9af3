"""The table of operations: every operation has separate draws, a field in the config and two implementations."""

import subprocess
import sys

from helpers import REPOSITORY
import pytest

from simclr_jax import config as config_lib
from simclr_jax.augment import family
from simclr_jax.augment import jax_ops
from simclr_jax.augment import tf_ops


def test_no_two_operations_share_a_draw():
    places = []
    for op in family.OPS:
        for place in (op.gate, *op.places.values()):
            places += range(place.start, place.stop) if isinstance(place, slice) else [place]
    assert len(places) == len(set(places))
    assert max(places) < family.NUM_DRAWS


def test_host_and_device_implement_the_same_table():
    names = [op.name for op in family.OPS]
    assert len(names) == len(set(names)) == 8
    assert set(names) == set(tf_ops._OPS) == set(jax_ops._OPS)
    assert set(family.JITTER_OPS) == set(tf_ops._JITTER_OPS) == set(jax_ops._JITTER_OPS)


@pytest.mark.parametrize("op", family.OPS, ids=lambda op: op.name)
def test_an_operation_is_on_where_it_can_change_a_view(op):
    augment = config_lib.pretrain().augment
    assert op.prob_field in augment
    augment[op.prob_field] = 0.0
    assert not op.is_on(augment, 32)
    augment[op.prob_field] = 0.5
    assert op.is_on(augment, 32)
    assert op.is_on(augment, 16) == (op.name != "blur"), "there the kernel is one pixel"
    augment.strength = 0.0
    assert op.is_on(augment, 32) == (op.name != "jitter")
    del augment[op.prob_field]
    assert not op.is_on(augment, 32)


def test_a_bound_of_zero_takes_an_operation_out_of_the_jitter():
    augment = config_lib.pretrain().augment
    augment.update(strength=0.5, brightness=0.8, contrast=0.0, saturation=4.0, hue=0.2)
    assert family.jitter_ranges(augment) == {"brightness": (0.6, 1.4), "saturation": (0.0, 3.0), "hue": (-0.1, 0.1)}


def test_the_kernel_of_the_blur_is_a_tenth_of_the_side():
    assert [family.blur_kernel_size(side) for side in (224, 96, 32, 16)] == [23, 9, 3, 1]


@pytest.mark.slow
def test_the_table_needs_neither_library_and_the_device_no_tensorflow():
    program = """
import sys
import simclr_jax.augment.family
assert not {"jax", "tensorflow"} & set(sys.modules), "the table"
import simclr_jax.augment.jax_ops, simclr_jax.data.resident, simclr_jax.training.inputs
assert "tensorflow" not in sys.modules, "the device"
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
