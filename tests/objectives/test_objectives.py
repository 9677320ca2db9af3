"""NT-Xent and its metrics against the reference vectors, against their definitions, and on one and eight devices."""

import functools
import math
from unittest import mock

from helpers import LAWS
from helpers import mesh_of
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
from ml_collections import ConfigDict
import numpy as np
import pytest

from simclr_jax import objectives
from simclr_jax.config import choices
from simclr_jax.objectives import choose
from simclr_jax.objectives import metrics as contrastive_metrics
from simclr_jax.objectives import pairwise
from simclr_jax.runtime import sharding

CASES = [(case, norm, tau) for case in ("rand_4x8", "rand_64x128") for norm in (0, 1) for tau in (0.1, 0.5, 1.0)]


def paired(hidden):
    """The reference's [2 N, dim] (all first views, then all second views) as [N, 2, dim]."""
    pairs = len(hidden) // 2
    return hidden.reshape(2, pairs, -1).transpose(1, 0, 2)


def relative_error(value, expected):
    value, expected = np.asarray(value), np.asarray(expected)
    return np.max(np.abs(value - expected)) / np.max(np.abs(expected))


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("method", ["blocks", "dense"])
@pytest.mark.parametrize(("case", "norm", "tau"), CASES)
def test_equals_the_reference_in_value_gradient_and_metrics(reference, case, norm, tau, method):
    vectors = reference("nt_xent")
    fields = ConfigDict({"name": "nt_xent", "temperature": tau, "normalize": bool(norm), "method": method})
    z = jnp.asarray(paired(vectors[f"{case}/hidden"]))
    key = f"{case}/norm{norm}/T{tau}"
    loss, gradient = jax.jit(jax.value_and_grad(objectives.make_objective(fields, len(z), mesh_of(1))))(z)
    assert relative_error(loss, vectors[f"{key}/loss"]) < 1e-5
    assert relative_error(loss, vectors[f"{key}/loss_f64"]) < 1e-5
    assert relative_error(gradient, paired(vectors[f"{key}/grad"])) < 1e-5
    metrics = jax.jit(contrastive_metrics.make_contrastive_metrics(fields, len(z), mesh_of(1)))(z)
    np.testing.assert_allclose(metrics["contrastive_top1"], vectors[f"{key}/contrast_acc"])
    # Without the norm the logits are as large as 1,000, and so is their rounding.
    atol = 1e-5 if norm else 1e-3
    np.testing.assert_allclose(metrics["contrastive_entropy"], vectors[f"{key}/contrast_entropy"], atol=atol)


def by_definition(z, tau):
    """Equation 1 of the paper, term by term, in float64; twice its L."""
    flat = z.reshape(-1, z.shape[-1]).astype(np.float64)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    similarity = flat @ flat.T / tau
    total = 0.0
    for i in range(len(flat)):
        positive = i ^ 1
        logits = [similarity[i, k] for k in range(len(flat)) if k != i]
        total -= similarity[i, positive] - np.log(np.sum(np.exp(logits)))
    return total / len(z)


@pytest.mark.parametrize("tau", [0.05, 0.5, 10.0])
def test_nt_xent_equals_the_papers_definition(tau):
    z = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(objectives.nt_xent(jnp.asarray(z), tau), by_definition(z, tau), rtol=1e-5)


def value_and_gradient(z, tau, normalize, devices):
    mesh = mesh_of(devices)
    function = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent(z, tau, normalize, mesh)))
    return jax.device_get(function(jax.device_put(z, sharding.batch_sharded(mesh))))


@functools.partial(jax.jit, static_argnums=(1, 2))
def dense_value_and_gradient(z, tau, normalize=True):
    return jax.value_and_grad(objectives.nt_xent_dense)(z, tau, normalize)


def test_the_dense_loss_is_the_same_on_eight_devices_and_no_device_holds_all_logits():
    pairs, dim = 256, 16
    z = np.random.default_rng(1).normal(size=(pairs, 2, dim)).astype(np.float32)
    results = {}
    for count in (1, 8):
        function = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent_dense(z, 0.5)))
        sharded = jax.device_put(z, sharding.batch_sharded(mesh_of(count)))
        results[count] = jax.device_get(function(sharded))
        if count == 8:
            temporaries = function.lower(sharded).compile().memory_analysis().temp_size_in_bytes
            all_logits = (2 * pairs) ** 2 * 4
            assert temporaries < all_logits, "each device should hold an eighth of the rows, a few times over"
    np.testing.assert_allclose(results[1][0], results[8][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[8][1], atol=1e-7)


def test_a_mesh_of_jax_make_mesh_will_do():
    """Its axes are explicit: JAX refuses what is not divided as a function asks for."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    z = np.random.default_rng(2).normal(size=(16, 2, 4)).astype(np.float32)
    function = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent(z, 0.5, mesh=mesh)))
    sharded = jax.device_put(z, split)
    loss, gradient = function(sharded)
    expected, expected_gradient = dense_value_and_gradient(z, 0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)
    metrics = jax.jit(lambda z: contrastive_metrics.contrastive_metrics(z, 0.5, mesh=mesh))(sharded)
    expected = contrastive_metrics.contrastive_metrics_dense(jnp.asarray(z), 0.5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), metrics, expected)


def test_the_faster_form_is_chosen(monkeypatch):
    mesh = mesh_of(8)
    assert choose.in_blocks("auto", 4096, mesh)
    assert not choose.in_blocks("dense", 4096, mesh)
    monkeypatch.setattr(choose, "DENSE_ABOVE_DEVICES", 4)
    assert not choose.in_blocks("auto", 4096, mesh)
    assert choose.in_blocks("auto", 65536, mesh), "its logits are too large"
    assert choose.in_blocks("blocks", 4096, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("pairs", "block"),
    [(24, 1024), (48, 4), (72, 5)],
    ids=["one block", "many blocks", "padded blocks"],
)
def test_blocks_and_rings_equal_the_dense_loss_to_rounding(monkeypatch, devices, pairs, block):
    """In float64, which shows any pair of rows that is missing or counted twice."""
    monkeypatch.setattr(pairwise, "BLOCK_ON_CPU", block)
    z = np.random.default_rng(pairs).normal(size=(pairs, 2, 6))
    with jax.enable_x64(True):
        for tau, normalize in ((0.01, True), (1.0, False)):
            loss, gradient = value_and_gradient(z, tau, normalize, devices)
            expected, expected_gradient = dense_value_and_gradient(jnp.asarray(z), tau, normalize)
            np.testing.assert_allclose(loss, expected, rtol=1e-12)
            scale = np.max(np.abs(expected_gradient))
            np.testing.assert_allclose(gradient, expected_gradient, atol=1e-11 * scale)
            if tau == 0.01:
                continue
            ours = jax.jit(lambda z, tau=tau, normalize=normalize: metrics_on(z, tau, normalize, devices))(z)
            dense = jax.jit(contrastive_metrics.contrastive_metrics_dense, static_argnums=(1, 2))
            for name, value in dense(jnp.asarray(z), tau, normalize).items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.slow
@settings(LAWS, max_examples=5)
@given(
    rows=st.integers(1, 12),
    devices=st.sampled_from([1, 2, 3, 5, 8]),
    block=st.integers(1, 9),
    dim=st.integers(1, 5),
    tau=st.floats(0.02, 10.0),
    normalize=st.booleans(),
)
def test_any_blocks_on_any_ring_equal_the_dense_loss(rows, devices, block, dim, tau, normalize):
    z = np.random.default_rng(rows).normal(size=(rows * devices, 2, dim))
    with jax.enable_x64(True), mock.patch.object(pairwise, "BLOCK_ON_CPU", block):
        loss, gradient = value_and_gradient(z, tau, normalize, devices)
        expected, expected_gradient = dense_value_and_gradient(jnp.asarray(z), tau, normalize)
    assert loss == pytest.approx(float(expected), rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9 * max(1.0, 1.0 / tau))


def metrics_on(z, tau, normalize, devices):
    mesh = mesh_of(devices)
    z = jax.lax.with_sharding_constraint(z, sharding.batch_sharded(mesh))
    return contrastive_metrics.contrastive_metrics(z, tau, normalize, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.01, 0.03, 0.04, 0.5, 10.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_float32_stays_exact_at_every_temperature(monkeypatch, tau, dtype):
    monkeypatch.setattr(pairwise, "BLOCK_ON_CPU", 16)
    z = jax.random.normal(jax.random.key(1), (40, 2, 8)).astype(dtype)
    for devices in (1, 8):
        loss, gradient = value_and_gradient(z, tau, True, devices)
        with jax.enable_x64(True):
            wide = jnp.asarray(np.asarray(z).astype(np.float64))
            expected, expected_gradient = dense_value_and_gradient(wide, tau)
        assert relative_error(loss, expected) < 1e-5
        # Logits of size 1 / tau carry rounding of that size into the gradient, here as in the dense form.
        limit = (5e-7 / tau + 2e-6) if dtype == jnp.float32 else 8e-3
        assert relative_error(np.asarray(gradient, np.float64), expected_gradient) < limit


@pytest.mark.parametrize("devices", [1, 8, None], ids=["1 device", "8 devices", "dense"])
def test_pairs_that_are_close_together_keep_their_digits(devices):
    """The loss is then a small part of both the denominator and the positive, and P - 1 of the gradient is near 0."""
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(64, 1, 64)) + 0.01 * rng.normal(size=(64, 2, 64))).astype(np.float32)
    if devices is None:
        loss, gradient = dense_value_and_gradient(z, 0.1)
    else:
        loss, gradient = value_and_gradient(z, 0.1, True, devices)
    with jax.enable_x64(True):
        wide = jnp.asarray(z.astype(np.float64))
        expected, expected_gradient = dense_value_and_gradient(wide, 0.1)
    assert float(expected) == pytest.approx(by_definition(z, 0.1), rel=1e-9)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert relative_error(gradient, expected_gradient) < 5e-6


def test_pairs_that_devices_cannot_share_are_refused():
    with pytest.raises(ValueError, match="8 devices cannot share 12 pairs equally"):
        objectives.nt_xent(jnp.ones((12, 2, 4)), 0.5, True, mesh_of(8))


def test_a_single_pair_has_no_negatives_and_no_gradient():
    for loss in (objectives.nt_xent, objectives.nt_xent_dense):
        value, gradient = jax.value_and_grad(loss)(jnp.array([[[1.0, 2.0], [2.0, 1.0]]]), 0.5)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.slow
def test_no_device_holds_a_matrix_of_all_logits_or_all_embeddings(monkeypatch):
    """Twice the batch takes twice the memory, not four times as much."""
    monkeypatch.setattr(pairwise, "BLOCK_ON_CPU", 64)
    dim, temporaries = 16, {}
    for devices in (1, 8):
        mesh = mesh_of(devices)
        for pairs in (4096, 8192):
            function = jax.jit(jax.value_and_grad(lambda z, mesh=mesh: objectives.nt_xent(z, 0.5, True, mesh)))
            z = jax.ShapeDtypeStruct((pairs, 2, dim), jnp.float32, sharding=sharding.batch_sharded(mesh))
            compiled = function.lower(z).compile()
            temporaries[devices, pairs] = compiled.memory_analysis().temp_size_in_bytes
            assert "all-gather" not in compiled.as_text()
        assert temporaries[devices, 8192] < 2.2 * temporaries[devices, 4096]
        assert temporaries[devices, 8192] < (2 * 8192) ** 2 * 4 / 30
    assert temporaries[8, 8192] < temporaries[1, 8192] / 3


def test_collapsed_embeddings_are_not_scored_as_perfect():
    pairs = 16
    metrics = contrastive_metrics.contrastive_metrics(jnp.ones((pairs, 2, 4)), 0.5)
    assert metrics["contrastive_top1"] == pytest.approx(1 / pairs)
    assert metrics["contrastive_top5"] == pytest.approx(5 / pairs)
    assert metrics["contrastive_entropy"] == pytest.approx(math.log(pairs), rel=1e-5)
    assert objectives.nt_xent(jnp.ones((pairs, 2, 4)), 0.5) == pytest.approx(2 * math.log(2 * pairs - 1), rel=1e-5)


@pytest.mark.slow
def test_the_order_of_images_and_of_views_does_not_matter():
    z = jax.random.normal(jax.random.key(2), (20, 2, 8))
    order = np.random.default_rng(0).permutation(len(z))
    value_and_grad = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent(z, 0.2)))
    loss, gradient = value_and_grad(z)
    for change in (lambda z: z[order], lambda z: z[:, ::-1]):
        changed_loss, changed_gradient = value_and_grad(change(z))
        np.testing.assert_allclose(changed_loss, loss, rtol=1e-6)
        np.testing.assert_allclose(changed_gradient, change(gradient), atol=1e-6)


@pytest.mark.parametrize("pairs", [1, 2, 16])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_identical_embeddings_are_at_chance_level(pairs, tau):
    z = jnp.broadcast_to(jnp.array([0.3, -2.0, 1.0]), (pairs, 2, 3))
    for loss in (objectives.nt_xent, objectives.nt_xent_dense):
        assert loss(z, tau) == pytest.approx(2 * math.log(2 * pairs - 1), rel=1e-5, abs=1e-5)


def test_every_loss_of_the_config_has_an_objective():
    assert tuple(choose.OBJECTIVES) == choices.LOSSES


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
    assert np.all(contrastive_metrics.target_rank(logits, jnp.array([0, 9])) >= 5)


@pytest.fixture
def no_shape_checks():
    """As outside the tests, where nothing checks the shapes in the signatures."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("no_shape_checks")
def test_wrong_shapes_and_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"\[pairs, 2, dim\].*\(8, 4\)"):
        objectives.nt_xent(jnp.ones((8, 4)), 0.5)
    with pytest.raises(ValueError, match="temperature must be positive, but is 0"):
        objectives.nt_xent(jnp.ones((4, 2, 4)), 0.0)
