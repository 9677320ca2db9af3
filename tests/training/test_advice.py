"""Warnings about runs that are unlikely to learn, and the levels of chance."""

import logging

import jax.numpy as jnp
import pytest

from simclr_jax import config as config_lib
from simclr_jax.objectives.metrics import contrastive_metrics_dense
from simclr_jax.objectives.nt_xent import nt_xent_dense
from simclr_jax.training import advice


def config_of(batch_size, microbatches=1, loss="nt_xent"):
    config = config_lib.pretrain()
    config.batch_size, config.microbatches, config.loss.name = batch_size, microbatches, loss
    return config


@pytest.mark.parametrize("batch_size", [4, 256])
def test_the_levels_of_chance_are_those_of_equal_embeddings(batch_size):
    levels = advice.chance_levels(config_of(batch_size))
    z = jnp.ones((batch_size, 2, 8))
    assert float(nt_xent_dense(z, 0.5)) == pytest.approx(levels["loss"], rel=1e-5)
    metrics = contrastive_metrics_dense(z, 0.5)
    assert float(metrics["contrastive_entropy"]) == pytest.approx(levels["contrastive_entropy"], rel=1e-5)
    # A tie goes to the lower index, so exactly one view of the batch is right.
    assert float(metrics["contrastive_top1"]) == pytest.approx(levels["contrastive_top1"])
    assert "loss" not in advice.chance_levels(config_of(batch_size, loss="nt_logistic"))


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (config_of(256), 76, "Only 76 steps"),
        (config_of(4), 1000, "BatchNorm sees only 8 views"),
        (config_of(256, microbatches=64), 1000, "or lower config.microbatches"),
        (config_of(256, microbatches=32), 1000, ""),
    ],
)
def test_a_run_that_cannot_learn_is_named_before_it_starts(caplog, config, steps, message):
    caplog.set_level(logging.WARNING, "simclr_jax")
    advice.warn_before(config, steps)
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)


def test_a_loss_at_chance_is_named_once_after_a_tenth_of_the_run(caplog):
    caplog.set_level(logging.WARNING, "simclr_jax")
    spread = {"deviation_h": 0.4}
    watch = advice.LearningWatch(config_of(256), 1000)
    watch(50, spread | {"loss": 13.0})
    assert not caplog.text, "too early to say"
    watch(100, spread | {"loss": 13.09})
    watch(150, spread | {"loss": 13.0})
    assert caplog.text.count("the loss is 13.09; guessing gives 12.47") == 1
    caplog.clear()
    watch = advice.LearningWatch(config_of(256), 1000)
    watch(100, spread | {"loss": 12.0})
    watch(200, spread | {"loss": 12.6})
    assert not caplog.text


@pytest.mark.parametrize("loss", ["nt_xent", "nt_logistic"])
def test_a_collapse_is_named_whatever_the_loss(caplog, loss):
    caplog.set_level(logging.WARNING, "simclr_jax")
    watch = advice.LearningWatch(config_of(256, loss=loss), 1000)
    for step in (100, 200):
        watch(step, {"loss": 12.47, "deviation_h": 1e-4})
    assert caplog.text.count("the network has collapsed") == 1
