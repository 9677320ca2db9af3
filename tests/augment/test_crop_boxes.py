"""Crop boxes for any image and any bounds, on the host and on the device."""

from helpers import LAWS
from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import jax_crops
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

COUNT = 8  # boxes for each example


def device_boxes(height, width, area, aspect, seed):
    draws = np.random.default_rng(seed).uniform(size=(COUNT, 202)).astype(np.float32)
    sides = (jnp.full(COUNT, side, jnp.int32) for side in (height, width))
    return np.asarray(jax_crops.random_boxes(jnp.asarray(draws), *sides, area, aspect))


def host_boxes(height, width, area, aspect, seed):
    def box(position):
        shape = tf.constant([height, width, 3])
        return tf_crops.random_box(shape, tf_random.crop_seed(seed, position, 0), area, aspect).numpy()

    return np.stack([box(tf.constant(position, tf.int64)) for position in range(COUNT)])


def bounds(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: tuple(sorted(pair)))


@pytest.mark.parametrize("boxes_of", [device_boxes, host_boxes])
@LAWS
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    area=bounds(0.05, 1.0),
    aspect=bounds(0.25, 4.0),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_box_is_within_the_image_and_its_bounds_or_is_the_whole_image(boxes_of, height, width, area, aspect, seed):
    boxes = boxes_of(height, width, area, aspect, seed)
    assert boxes.shape == (COUNT, 4)
    assert boxes.dtype == np.int32
    for top, left, tall, wide in boxes.tolist():
        assert min(top, left) >= 0
        assert min(tall, wide) >= 1
        assert top + tall <= height
        assert left + wide <= width
        if (tall, wide) != (height, width):  # which a hundred misses also give
            covered = tall * wide / (height * width)
            assert max(area[0], 0.1) - 1e-6 <= covered <= area[1] + 1e-6
            assert tall * aspect[0] - 0.51 <= wide <= tall * aspect[1] + 0.51, "to a pixel"
