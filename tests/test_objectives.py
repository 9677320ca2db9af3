"""NT-Xent against the reference vectors, against its definition, and on one and eight devices."""

import math

from conftest import mesh_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import objectives
from simclr_jax import parallel

CASES = [(case, norm, tau) for case in ("rand_4x8", "rand_64x128") for norm in (0, 1) for tau in (0.1, 0.5, 1.0)]


def paired(hidden):
    """The reference's [2 N, dim] (all first views, then all second views) as [N, 2, dim]."""
    pairs = len(hidden) // 2
    return hidden.reshape(2, pairs, -1).transpose(1, 0, 2)


def relative_error(value, expected):
    return np.max(np.abs(value - expected)) / np.max(np.abs(expected))


@pytest.mark.shared_data
@pytest.mark.parametrize(("case", "norm", "tau"), CASES)
def test_equals_the_reference_in_value_gradient_and_metrics(reference, case, norm, tau):
    vectors = reference("nt_xent")
    z = jnp.asarray(paired(vectors[f"{case}/hidden"]))
    key = f"{case}/norm{norm}/T{tau}"
    loss, gradient = jax.value_and_grad(objectives.nt_xent)(z, tau, bool(norm))
    assert relative_error(loss, vectors[f"{key}/loss"]) < 1e-5
    assert relative_error(loss, vectors[f"{key}/loss_f64"]) < 1e-5
    assert relative_error(gradient, paired(vectors[f"{key}/grad"])) < 1e-5
    metrics = objectives.contrastive_metrics(z, tau, bool(norm))
    np.testing.assert_allclose(metrics["contrastive_top1"], vectors[f"{key}/contrast_acc"])
    np.testing.assert_allclose(metrics["contrastive_entropy"], vectors[f"{key}/contrast_entropy"], atol=1e-5)


def by_definition(z, tau):
    """Equation 1 of the paper, loop by loop, in float64; twice its L."""
    flat = z.reshape(-1, z.shape[-1]).astype(np.float64)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    similarity = flat @ flat.T / tau
    total = 0.0
    for i in range(len(flat)):
        positive = i ^ 1
        others = [similarity[i, k] for k in range(len(flat)) if k != i]
        total -= similarity[i, positive] - np.log(np.sum(np.exp(others)))
    return total / len(z)


@pytest.mark.parametrize("tau", [0.05, 0.5, 10.0])
def test_is_the_papers_definition(tau):
    z = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(objectives.nt_xent(jnp.asarray(z), tau), by_definition(z, tau), rtol=1e-5)


def test_is_the_same_on_eight_devices_and_no_device_holds_all_logits():
    pairs, dim = 256, 16
    z = np.random.default_rng(1).normal(size=(pairs, 2, dim)).astype(np.float32)
    results = {}
    for count in (1, 8):
        mesh = mesh_of(count)
        function = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent(z, 0.5)))
        sharded = jax.device_put(z, parallel.batch_sharded(mesh))
        results[count] = jax.device_get(function(sharded))
        if count == 8:
            temporaries = function.lower(sharded).compile().memory_analysis().temp_size_in_bytes
            all_logits = (2 * pairs) ** 2 * 4
            assert temporaries < all_logits, "each device should hold an eighth of the rows, a few times over"
    np.testing.assert_allclose(results[1][0], results[8][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[8][1], atol=1e-7)


def test_collapsed_embeddings_are_not_scored_as_perfect():
    pairs = 16
    metrics = objectives.contrastive_metrics(jnp.ones((pairs, 2, 4)), 0.5)
    assert metrics["contrastive_top1"] == pytest.approx(1 / pairs)
    assert metrics["contrastive_top5"] == pytest.approx(5 / pairs)
    assert metrics["contrastive_entropy"] == pytest.approx(math.log(pairs), rel=1e-5)
    assert objectives.nt_xent(jnp.ones((pairs, 2, 4)), 0.5) == pytest.approx(2 * math.log(2 * pairs - 1), rel=1e-5)


def test_zero_embeddings_have_a_finite_gradient():
    gradient = jax.grad(objectives.nt_xent)(jnp.zeros((4, 2, 3)), 0.5)
    assert np.all(np.isfinite(gradient))


def test_bfloat16_embeddings_are_computed_in_float32():
    z = jax.random.normal(jax.random.key(0), (8, 2, 4), jnp.bfloat16)
    loss = objectives.nt_xent(z, 0.1)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, objectives.nt_xent(z.astype(jnp.float32), 0.1))


def test_nan_is_never_a_correct_prediction():
    logits = jnp.full((2, 10), jnp.nan)
    assert np.all(objectives.target_rank(logits, jnp.array([0, 9])) >= 5)


def test_wrong_shapes_and_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"\[pairs, 2, dim\].*\(8, 4\)"):
        objectives.nt_xent(jnp.ones((8, 4)), 0.5)
    with pytest.raises(ValueError, match="temperature must be positive, but is 0"):
        objectives.nt_xent(jnp.ones((4, 2, 4)), 0.0)
