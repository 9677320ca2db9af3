"""What the config leaves to auto."""

import logging

import pytest

from configs import digits
from simclr_jax.training import auto


@pytest.mark.parametrize(("platform", "where"), [("cpu", "host"), ("gpu", "device"), ("tpu", "device")])
def test_the_augmentation_runs_where_it_costs_least(caplog, platform, where):
    caplog.set_level(logging.INFO, "simclr_jax")
    config = digits.get_config()
    assert not auto.is_open(config)
    assert auto.resolve(config, 1437, 1, platform) == config
    config.augment.where = "auto"
    assert auto.is_open(config)
    resolved = auto.resolve(config, 1437, 1, platform)
    assert resolved.augment.where == where
    assert f"The augmentation runs on the {where}" in caplog.text
    assert config.augment.where == "auto", "the given config is not changed"


def test_a_run_that_continues_keeps_its_place():
    config, earlier = digits.get_config(), digits.get_config()
    config.augment.where, earlier.augment.where = "auto", "host"
    assert auto.resolve(config, 1437, 1, "tpu", earlier).augment.where == "host"
