"""Micro-batches and rematerialisation: the same numbers in less memory."""

from flax import nnx
from helpers import mesh_of
from helpers import some_variables
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import errors
from simclr_jax.config import checks as config_checks
from simclr_jax.models.networks import SimCLR
from simclr_jax.runtime import sharding
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps

pytestmark = pytest.mark.slow

BATCH, SIZE = 32, 8
PLAIN = optax.sgd(1.0)  # the change of a parameter is its gradient


class WithoutBatchNorm(nnx.Module):
    """A small network in which images do not see each other; a classifier beside it."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), strides=2, param_dtype=jnp.float64, rngs=rngs)
        self.dense = nnx.Linear(6 * 16, 8, param_dtype=jnp.float64, rngs=rngs)
        self.classifier = nnx.Linear(6 * 16, 10, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, images, *, train):
        h = nnx.relu(self.conv(images.astype(jnp.float64))).reshape(len(images), -1)
        return h, self.dense(h)


def config_of(**changes):
    config = config_lib.pretrain()
    config.model.update(depth=10, width=0.125, stem="cifar")
    config.update(batch_size=BATCH, **changes)
    return config


def compiled_step(make_model, config, devices):
    mesh = mesh_of(devices)
    state = state_lib.new_state(*some_variables(make_model, mesh), PLAIN, mesh)
    step = steps.make_pretrain_step(state_lib.graph_of(make_model), PLAIN, lambda step: 1.0, config, mesh)
    rng = np.random.default_rng(0)
    views = rng.integers(0, 255, (BATCH, 2, SIZE, SIZE, 3), dtype=np.uint8)
    batch = {"views": views, "label": rng.integers(0, 10, BATCH, dtype=np.int32)}
    return step, state, sharding.to_global(batch, mesh)


def after_one_step(make_model, config, devices):
    step, state, batch = compiled_step(make_model, config, devices)
    return jax.device_get(step(state, batch))


def temporaries(make_model, config, devices):
    step, state, batch = compiled_step(make_model, config, devices)
    return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes


def assert_close(some, others, tolerance):
    def close(path, a, b):
        assert np.max(np.abs(a - b)) < tolerance * (np.max(np.abs(b)) + 1e-30), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(close, some, others)


@pytest.mark.parametrize(("devices", "parts"), [(1, 4), (8, 2), (8, 4)])
def test_without_batch_norm_micro_batches_change_nothing(devices, parts):
    with jax.enable_x64(True):
        whole, whole_metrics = after_one_step(WithoutBatchNorm, config_of(), 1)
        state, metrics = after_one_step(WithoutBatchNorm, config_of(microbatches=parts), devices)
    assert_close(state.params, whole.params, 1e-12)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)


def resnet(config):
    return lambda rngs: SimCLR(config, 10, rngs=rngs)


def test_batch_norm_sees_the_micro_batch_and_its_running_statistics_follow_the_mean():
    config = config_of(microbatches=4)
    state, _ = after_one_step(resnet(config), config, 1)
    step, fresh, batch = compiled_step(resnet(config), config, 1)
    del step
    images = np.asarray(batch["views"]).reshape(4, -1, SIZE, SIZE, 3).astype(np.float32) / 255
    kernel = fresh.params["encoder"]["stem_conv"]["kernel"]
    numbers = ("NHWC", "HWIO", "NHWC")
    outs = [
        jax.lax.conv_general_dilated(part, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)
        for part in images
    ]
    statistics = state.batch_stats["encoder"]["stem_bn"]
    variance = np.mean([np.var(out, axis=(0, 1, 2)) for out in outs], axis=0)
    np.testing.assert_allclose(statistics["mean"], 0.1 * np.mean(outs, axis=(0, 1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_micro_batches_take_less_memory(monkeypatch):
    # Enough images that the activations, and not the parameters, are what takes memory.
    monkeypatch.setitem(globals(), "BATCH", 64)
    monkeypatch.setitem(globals(), "SIZE", 16)
    size = {parts: temporaries(resnet(config_of()), config_of(microbatches=parts), 1) for parts in (1, 2, 8)}
    assert size[2] < 0.75 * size[1]
    assert size[8] < 0.4 * size[1]


def test_images_stay_on_their_device_when_they_are_cut_into_micro_batches():
    step, state, batch = compiled_step(resnet(config_of()), config_of(microbatches=2), 8)
    text = step.lower(state, batch).compile().as_text()
    moved = ("all-gather", "all-to-all", "collective-permute")
    assert not [
        line for line in text.splitlines() if any(kind in line for kind in moved) and f"{SIZE},{SIZE},3]" in line
    ]


@pytest.mark.parametrize("remat", ["block", "stage"])
def test_rematerialisation_changes_no_number(remat):
    with jax.enable_x64(True):
        results = {}
        for kind in ("none", remat):
            config = config_of(remat=kind, compute_dtype="float64")
            results[kind] = after_one_step(resnet(config), config, 1)
    (plain, plain_metrics), (state, metrics) = results.values()
    np.testing.assert_allclose(metrics["loss"], plain_metrics["loss"], rtol=1e-12)
    assert_close(state.params, plain.params, 1e-9)
    assert_close(state.batch_stats, plain.batch_stats, 1e-12)


def test_parts_that_do_not_divide_the_images_of_a_device_are_refused():
    config = config_of(microbatches=3)
    config.batch_size = 64
    with pytest.raises(errors.UserError, match="config.microbatches is 3.* 8 images on each device: one of 1, 2, 4, 8"):
        config_checks.check_values(config, 8)
    with pytest.raises(
        errors.UserError, match="the 64 images of a batch: one of 1, 2, .*64, and on several devices a div"
    ):
        config_checks.check_values(config, 1)
