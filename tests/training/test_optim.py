"""Optimisers and schedules against the reference vectors, and the masks."""

from helpers import LAWS
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.evaluation import supervised
from simclr_jax.training import optim


def nested(names, value):
    """`{"a/b": x}` as nested dicts; the reference's supervised head is our classifier."""
    tree = {}
    for name in names:
        *parents, last = name.replace("head_supervised", "classifier").split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = jnp.asarray(value(name))
    return tree


@pytest.mark.shared_data
@pytest.mark.parametrize("schedule", ["const", "cosine"])
def test_lars_equals_the_reference_for_twenty_steps(reference, schedule):
    vectors = reference("lars")
    run = f"wd1e-06/classic1/nesterov0/{schedule}"
    names = [key.removeprefix("init/") for key in vectors if key.startswith("init/")]
    rates = jnp.asarray(vectors[f"{run}/lr"])
    weight_decay = config_lib.pretrain().optimizer.weight_decay
    optimizer = optim.make_optimizer(config_lib.pretrain().optimizer, lambda step: rates[step])
    params = nested(names, lambda name: vectors[f"init/{name}"])
    state = optimizer.init(params)
    for step in range(20):
        grads = nested(names, lambda name, step=step: vectors[f"grad/{name}"][step])
        # The reference decays the classifier's kernel in its loss, which is not part of these gradients.
        weights = params["classifier"]["linear_layer"]["dense_3"]
        grads["classifier"]["linear_layer"]["dense_3"]["kernel"] -= weight_decay * weights["kernel"]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        expected = nested(names, lambda name, step=step: vectors[f"{run}/params/{name}"][step])
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7), params, expected
        )


SCHEDULES = {
    "linear_base0.3_bs512_n5120_ep100_wu10": (0.3, "linear", 512, 5120, 100, 10),
    "sqrt_base0.075_bs512_n5120_ep100_wu10": (0.075, "sqrt", 512, 5120, 100, 10),
    "linear_base0.3_bs512_n5120_ep100_wu0": (0.3, "linear", 512, 5120, 100, 0),
    "cifar_readme": (1.0, "linear", 512, 50_000, 1000, 10),
    "imagenet_readme": (0.075, "sqrt", 4096, 1_281_167, 100, 10),
    "imagenet_linear03": (0.3, "linear", 4096, 1_281_167, 100, 10),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_the_reference(reference, name):
    vectors = reference("lars")
    base, scaling, batch, examples, epochs, warmup = SCHEDULES[name]
    steps = optim.total_steps(examples, batch, epochs)
    fields = ConfigDict({"learning_rate": base, "scaling": scaling, "warmup_epochs": warmup})
    schedule = optim.make_schedule(fields, batch_size=batch, num_examples=examples, steps=steps)
    expected = vectors[f"schedule/{name}/lr"]
    at = vectors[f"schedule/{name}/steps"] if f"schedule/{name}/steps" in vectors else np.arange(len(expected))
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(at)), expected, rtol=1e-5, atol=1e-6 * expected.max())
    if f"schedule/{name}/warmup_total" in vectors:
        assert vectors[f"schedule/{name}/warmup_total"][1] == steps


def test_the_first_update_has_rate_zero_and_the_peak_comes_after_the_warm_up():
    schedule = optim.warmup_cosine(2.0, 10, 100)
    assert schedule(0) == 0.0
    assert schedule(10) == pytest.approx(2.0)
    assert schedule(100) == pytest.approx(0.0, abs=1e-6)


@LAWS
@given(
    peak=st.floats(1e-4, 100.0),
    warmup_steps=st.integers(0, 10_000),
    decay_steps=st.integers(1, 100_000),
)
def test_any_schedule_rises_to_its_peak_and_falls_to_zero_without_a_jump(peak, warmup_steps, decay_steps):
    steps = warmup_steps + decay_steps
    schedule = optim.warmup_cosine(peak, warmup_steps, steps)
    around = np.clip(np.arange(-3, 4) + warmup_steps, 0, steps)
    at = np.unique(np.concatenate([np.linspace(0, steps, 200).astype(np.int32), around]))
    rates = np.asarray(schedule(jnp.asarray(at, jnp.int32))) / peak
    assert rates.min() >= 0
    assert rates.max() <= 1 + 1e-6
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert rates[at == warmup_steps] == pytest.approx(1)
    assert rates[0] == (0 if warmup_steps else 1)
    assert np.all(np.diff(rates[at <= warmup_steps]) > 0)
    assert np.all(np.diff(rates[at >= warmup_steps]) <= 1e-6)
    # From one step to the next the rate changes no faster than the warm-up or the steepest part of the cosine.
    steepest = max(1 / max(warmup_steps, 1), np.pi / 2 / decay_steps)
    assert np.all(np.abs(np.diff(rates)) <= steepest * np.diff(at) + 1e-5)


PARAMS = {
    "encoder": {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}, "bn": {"scale": jnp.ones(4), "bias": jnp.ones(4)}},
    "classifier": {"kernel": jnp.ones((4, 10)), "bias": jnp.ones(10)},
}


def test_masks_choose_kernels():
    assert optim.trust_ratio_mask(PARAMS) == {
        "encoder": {"conv": {"kernel": True}, "bn": {"scale": False, "bias": False}},
        "classifier": {"kernel": False, "bias": False},
    }
    assert optim.decay_mask(PARAMS) == {
        "encoder": {"conv": {"kernel": True}, "bn": {"scale": False, "bias": False}},
        "classifier": {"kernel": True, "bias": False},
    }


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_every_optimizer_steps_down_and_decays_only_kernels(name):
    fields = config_lib.pretrain().optimizer
    fields.update(name=name, weight_decay=0.1, momentum=0.0)
    optimizer = optim.make_optimizer(fields, 0.1)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zero, optimizer.init(PARAMS), PARAMS)
    shrunk = jax.tree.map(lambda update: bool(jnp.all(update < 0)), updates)
    assert shrunk == optim.decay_mask(PARAMS)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = optimizer.update(ones, optimizer.init(PARAMS), PARAMS)
    assert all(bool(jnp.all(update < 0)) for update in jax.tree.leaves(updates))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_of_lars_where_a_classifier_is_the_aim(frozen):
    """The classifier moves by the plain gradient and decay, the encoder by the trust ratio; frozen: not at all."""
    fields = config_lib.pretrain().optimizer
    fields.update(weight_decay=0.01, momentum=0.0, trust_coefficient=0.001)
    optimizer = optim.make_optimizer(fields, 0.5)
    optimizer = supervised._only_classifier(optimizer) if frozen else optimizer
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -0.5 * (2.0 + 0.01 * 1.0), rtol=1e-6)
    np.testing.assert_allclose(updates["classifier"]["bias"], -0.5 * 2.0)
    # |w| / |g + decay w| is 1 / 2.01, whatever the size; then times the gradient with decay.
    expected = 0.0 if frozen else -0.5 * 0.001 * 1.0
    np.testing.assert_allclose(updates["encoder"]["conv"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_rate_factor_is_another_learning_rate(name):
    fields = config_lib.pretrain().optimizer
    fields.update(name=name, weight_decay=0.1)
    direct, scaled = optim.make_optimizer(fields, 0.06), optim.with_rate_factor(optim.make_optimizer(fields, 0.02))
    state, scaled_state = direct.init(PARAMS), optim.set_rate_factor(scaled.init(PARAMS), 3.0)
    assert optim.rate_factor(state) == 1.0
    assert optim.rate_factor(scaled_state) == 3.0
    for step in range(3):
        grads = jax.tree.map(lambda leaf, step=step: jnp.full_like(leaf, step + 1.0), PARAMS)
        updates, state = direct.update(grads, state, PARAMS)
        ours, scaled_state = scaled.update(grads, scaled_state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, updates)


def test_nesterov_momentum_is_optax_sgd():
    fields = config_lib.finetune().optimizer
    assert (fields.name, fields.nesterov, fields.weight_decay) == ("sgd", True, 0.0)
    ours, theirs = optim.make_optimizer(fields, 0.5), optax.sgd(0.5, momentum=0.9, nesterov=True)
    params, (a, b) = jnp.ones(3), (ours.init(jnp.ones(3)), theirs.init(jnp.ones(3)))
    for step in range(3):
        grad = jnp.full(3, step + 1.0)
        update, a = ours.update(grad, a, params)
        expected, b = theirs.update(grad, b, params)
        np.testing.assert_allclose(update, expected)


def test_a_warm_up_longer_than_the_run_is_refused():
    fields = ConfigDict({"learning_rate": 1.0, "scaling": "none", "warmup_epochs": 10.0})
    with pytest.raises(UserError, match="warmup_epochs=10 is 100 steps, but the run has only 51"):
        optim.make_schedule(fields, batch_size=10, num_examples=100, steps=51)
