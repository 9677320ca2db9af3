"""NT-Logistic and the margin triplet loss against their definitions, and on one and eight devices."""

import math

from helpers import mesh_of
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from simclr_jax import objectives
from simclr_jax.runtime import sharding


def by_definition(z, normalize, positive_term, negative_term, pick):
    """Table 2 of the paper, view by view, in float64. `pick` takes (negatives, positive) and returns those to use."""
    flat = z.reshape(-1, z.shape[-1]).astype(np.float64)
    if normalize:
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    similarity = flat @ flat.T
    total = 0.0
    for i in range(len(flat)):
        positive = similarity[i, i ^ 1]
        negatives = [similarity[i, k] for k in range(len(flat)) if k // 2 != i // 2]
        negatives = pick(negatives, positive)
        terms = [negative_term(s, positive) for s in negatives]
        total += positive_term(positive) + (np.mean(terms) if terms else 0.0)
    return total / len(z)


def everything(negatives, positive):
    return negatives


def hardest_below_the_positive(negatives, positive):
    return sorted(s for s in negatives if s < positive)[-1:]


DEFINITIONS = {
    "nt_logistic": lambda z, normalize, semi_hard: by_definition(
        z,
        normalize,
        lambda s: np.log1p(np.exp(-s / 0.3)),
        lambda s, positive: np.log1p(np.exp(s / 0.3)),
        hardest_below_the_positive if semi_hard else everything,
    ),
    "margin_triplet": lambda z, normalize, semi_hard: by_definition(
        z,
        normalize,
        lambda s: 0.0,
        lambda s, positive: max(s - positive + 0.4, 0.0),
        hardest_below_the_positive if semi_hard else everything,
    ),
}


def objective_of(name, normalize, semi_hard, pairs, devices=1):
    fields = {"name": name, "temperature": 0.3, "margin": 0.4, "normalize": normalize, "semi_hard": semi_hard}
    return objectives.make_objective(ConfigDict(fields | {"method": "auto"}), pairs, mesh_of(devices))


@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_alternatives_equal_the_papers_definition_in_value_and_gradient(name, normalize, semi_hard):
    random = np.random.default_rng(5)
    z = random.normal(size=(7, 1, 5)) + 0.7 * random.normal(size=(7, 2, 5))
    direction = random.normal(size=z.shape)
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(objective_of(name, normalize, semi_hard, 7))(jnp.asarray(z))
        assert loss == pytest.approx(DEFINITIONS[name](z, normalize, semi_hard), rel=1e-12)
        # The directional derivative, by finite differences of the definition.
        step = 1e-6
        higher, lower = (DEFINITIONS[name](z + sign * step * direction, normalize, semi_hard) for sign in (1, -1))
        assert np.sum(gradient * direction) == pytest.approx((higher - lower) / (2 * step), rel=1e-6)


@pytest.mark.slow
def test_mining_ignores_negatives_as_similar_as_the_positive_or_beyond_the_margin():
    collapsed = jnp.ones((4, 2, 3))  # no negative is less similar than the positive
    assert objective_of("margin_triplet", True, True, 4)(collapsed) == 0
    assert objective_of("margin_triplet", True, False, 4)(collapsed) == pytest.approx(0.8)
    expected = 2 * math.log1p(math.exp(-1 / 0.3))
    assert objective_of("nt_logistic", True, True, 4)(collapsed) == pytest.approx(expected, rel=1e-5)
    apart = jnp.eye(4)[:, None].repeat(2, axis=1)  # all negatives are further than the margin
    assert objective_of("margin_triplet", True, True, 4)(apart) == 0


@pytest.mark.parametrize("semi_hard", [False, True])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_alternatives_are_the_same_on_eight_devices(name, semi_hard):
    z = np.random.default_rng(6).normal(size=(256, 2, 8)).astype(np.float32)
    results = {}
    for devices in (1, 8):
        objective = jax.jit(jax.value_and_grad(objective_of(name, True, semi_hard, len(z), devices)))
        sharded = jax.device_put(z, sharding.batch_sharded(mesh_of(devices)))
        results[devices] = jax.device_get(objective(sharded))
        if devices == 8:
            temporaries = objective.lower(sharded).compile().memory_analysis().temp_size_in_bytes
            assert temporaries < (2 * len(z)) ** 2 * 4, (
                "each device should hold an eighth of the rows, a few times over"
            )
    np.testing.assert_allclose(results[1][0], results[8][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[8][1], atol=1e-6)


def test_margins_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="margin must be positive, but is 0"):
        objectives.margin_triplet(jnp.ones((4, 2, 4)), 0.0)
