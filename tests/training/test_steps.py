"""The jitted steps: equal on one and eight devices, in float32 to rounding and in float64 to many digits more."""

import functools

from helpers import compilations
from helpers import mesh_of
from helpers import some_variables
import jax
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.models.networks import SimCLR
from simclr_jax.runtime import sharding
from simclr_jax.training import inputs
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps

BATCH, SIZE = 32, 8


def pretrain_config(dtype="float32"):
    config = config_lib.pretrain()
    config.model.update(depth=10, width=0.125, stem="cifar")
    config.batch_size, config.loss.temperature = BATCH, 0.5
    config.compute_dtype = dtype
    return config


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 255, (BATCH, 2, SIZE, SIZE, 3), dtype=np.uint8)
    return {"views": views, "label": rng.integers(0, 10, BATCH, dtype=np.int32)}


def set_up(device_count, optimizer, dtype="float32", num_classes=10):
    """A step and an initial state."""
    config, mesh = pretrain_config(dtype), mesh_of(device_count)

    def make_model(rngs):
        return SimCLR(config, num_classes, rngs=rngs)

    graph = state_lib.graph_of(make_model)
    state = state_lib.new_state(*some_variables(make_model, mesh), optimizer, mesh)
    return steps.make_pretrain_step(graph, optimizer, lambda step: 1.0, config, mesh), state, mesh


@functools.cache
def after_one_step(device_count, optimizer, dtype="float32"):
    step, state, mesh = set_up(device_count, optimizer, dtype)
    state, metrics = step(state, sharding.to_global(batch_of(), mesh))
    return jax.device_get((state, metrics))


def assert_trees_close(some, others, tolerance):
    """Every leaf, relative to its largest value."""

    def close(path, a, b):
        scale = np.max(np.abs(b)) + 1e-30
        assert np.max(np.abs(a - b)) / scale < tolerance, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(close, some, others)


# A rate of one without momentum: the change of a parameter is its gradient.
PLAIN = optax.sgd(1.0)


@pytest.mark.slow
def test_one_and_eight_devices_agree_in_float32():
    (one, one_metrics), (eight, eight_metrics) = (after_one_step(count, PLAIN) for count in (1, 8))
    np.testing.assert_allclose(one_metrics["loss"], eight_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(one_metrics["grad_norm"], eight_metrics["grad_norm"], rtol=1e-4)
    assert_trees_close(eight.batch_stats, one.batch_stats, 1e-5)
    assert_trees_close(eight.params, one.params, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["gradients", "lars"])
def test_one_and_eight_devices_agree_in_float64(optimizer):
    """No tolerance for a missing reduction or a wrong factor: they would be off by far more than 1e-9."""
    transform = PLAIN if optimizer == "gradients" else optim.make_optimizer(config_lib.pretrain().optimizer, 1.0)
    with jax.enable_x64(True):
        results = [after_one_step(count, transform, "float64") for count in (1, 8)]
    (one, one_metrics), (eight, eight_metrics) = results
    assert one.params["encoder"]["stem_conv"]["kernel"].dtype == np.float64
    np.testing.assert_allclose(one_metrics["loss"], eight_metrics["loss"], rtol=1e-12)
    assert_trees_close(eight.batch_stats, one.batch_stats, 1e-9)
    assert_trees_close(eight.params, one.params, 1e-7)


@pytest.mark.slow
def test_batch_statistics_are_those_of_the_global_batch():
    _, (state, _) = None, after_one_step(8, PLAIN)
    images = batch_of()["views"].reshape(-1, SIZE, SIZE, 3).astype(np.float32) / 255
    step, fresh, _ = set_up(1, PLAIN)
    del step
    kernel = fresh.params["encoder"]["stem_conv"]["kernel"]
    numbers = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)
    expected = 0.1 * np.mean(out, axis=(0, 1, 2)), 0.9 + 0.1 * np.var(out, axis=(0, 1, 2))
    statistics = state.batch_stats["encoder"]["stem_bn"]
    np.testing.assert_allclose(statistics["mean"], expected[0], atol=1e-5)
    np.testing.assert_allclose(statistics["var"], expected[1], rtol=1e-4)


def test_the_state_stays_replicated_is_donated_and_nothing_compiles_twice():
    step, state, mesh = set_up(8, optim.make_optimizer(config_lib.pretrain().optimizer, 0.1))
    first_kernel = state.params["encoder"]["stem_conv"]["kernel"]
    with compilations() as compiled:
        state, _ = step(state, sharding.to_global(batch_of(0), mesh))
    assert compiled == ["pretrain_step"]
    with compilations() as compiled:
        for number in (1, 2):
            state, _ = step(state, sharding.to_global(batch_of(number), mesh))
    assert compiled == []
    assert first_kernel.is_deleted()
    assert int(state.step) == 3
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_a_step_leaks_no_tracer():
    """What it computes while it is traced stays in it: no layer keeps an intermediate result."""
    step, state, mesh = set_up(1, PLAIN)
    batch = sharding.to_global(batch_of(), mesh)
    with jax.checking_leaks():
        step.trace(state, batch)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["blocks", "dense"])
def test_more_devices_with_as_many_more_images_leave_each_device_its_work(method):
    """Weak scaling. What grows is the contrast with all images, which is small beside the network."""
    flops = {}
    for count in (1, 8):
        config, mesh = pretrain_config(), mesh_of(count)
        config.batch_size, config.loss.method = 8 * count, method

        def make_model(rngs, config=config):
            return SimCLR(config, None, rngs=rngs)

        step = steps.make_pretrain_step(state_lib.graph_of(make_model), PLAIN, lambda step: 1.0, config, mesh)
        state = state_lib.abstract_state(make_model, PLAIN, mesh)
        config.data.image_size = 2 * SIZE
        batch = inputs.abstract_batch(config, mesh, 1000)
        flops[count] = step.lower(state, batch).compile().cost_analysis()["flops"]
    assert flops[8] == pytest.approx(flops[1], rel=0.05)


@pytest.mark.slow
def test_the_online_classifier_changes_nothing_else():
    results = []
    for num_classes in (10, None):
        step, state, mesh = set_up(1, PLAIN, num_classes=num_classes)
        results.append(jax.device_get(step(state, sharding.to_global(batch_of(), mesh))))
    (with_it, metrics), (without, _) = results
    assert_trees_close(with_it.params["encoder"], without.params["encoder"], 1e-5)
    assert_trees_close(with_it.params["head"], without.params["head"], 1e-5)
    assert np.any(with_it.params["classifier"]["kernel"] != 0)
    assert 0 <= metrics["classifier_top1"] <= 1


@pytest.mark.slow
def test_views_keep_their_split_over_devices():
    """Merging [batch, 2] must not gather the images: no device holds them all."""
    step, state, mesh = set_up(8, PLAIN)
    batch = sharding.to_global(batch_of(), mesh)
    text = step.lower(state, batch).compile().as_text()
    gathered = [line for line in text.splitlines() if "all-gather" in line and f",{SIZE},{SIZE},3]" in line]
    assert not gathered
    assert "all-reduce" in text


@pytest.mark.slow
def test_bfloat16_stays_close_and_keeps_float32_parameters():
    (full, full_metrics), (half, half_metrics) = (after_one_step(1, PLAIN, dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_allclose(half_metrics["loss"], full_metrics["loss"], rtol=0.02)
    for leaf in jax.tree.leaves((half.params, half.batch_stats)):
        assert leaf.dtype == np.float32
    del full
