"""The cheap measures of a step equal those that the verdict computes with NumPy, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.diagnosis import spectrum
from simclr_jax.diagnosis import views
from simclr_jax.objectives import representations
from simclr_jax.runtime import sharding
from tests.helpers import mesh_of

representation_metrics = jax.jit(representations.representation_metrics, static_argnums=2)


def draw(pairs, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    common = jax.random.normal(keys[0], (pairs, 1, 24)) * jnp.linspace(0.1, 2, 24) + 1
    h = common + 0.3 * jax.random.normal(keys[1], (pairs, 2, 24))
    return h, h @ jax.random.normal(keys[2], (24, 8))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("pairs", [64, 1024])
def test_the_measures_are_those_of_the_verdict_on_evenly_spaced_images(pairs, devices):
    h, z = draw(pairs)
    step = max(pairs // representations.SAMPLE, 1)
    some_h, some_z = np.asarray(h)[::step], np.asarray(z)[::step]
    variances = spectrum.spectrum(some_h[:, 0])
    wanted = {
        "dimensions_h": 1 / np.sum(variances**2),
        "deviation_h": spectrum.feature_deviation(some_h[:, 0]),
        "alignment_z": views.alignment(some_z),
        "uniformity_z": views.uniformity(some_z[:, 0]),
    }
    mesh = mesh_of(devices)
    found = representation_metrics(*jax.device_put((h, z), sharding.batch_sharded(mesh)), mesh)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def test_no_device_gathers_the_batch():
    mesh = mesh_of(8)
    shape = jax.ShapeDtypeStruct((4096, 2, 64), jnp.float32, sharding=sharding.batch_sharded(mesh))
    program = representation_metrics.lower(shape, shape, mesh).compile().as_text()
    assert "[4096,2,64]" not in program
    assert "[256,2,64]" in program


def test_a_collapse_has_no_dimension_and_no_deviation():
    same = jnp.broadcast_to(jnp.linspace(1, 2, 16), (32, 2, 16))
    found = representation_metrics(same, same, None)
    assert float(found["dimensions_h"]) == 0
    assert float(found["deviation_h"]) < representations.COLLAPSED / 100
    assert float(found["alignment_z"]) == pytest.approx(0, abs=1e-6)
    assert float(found["uniformity_z"]) == pytest.approx(0, abs=1e-5)
    line = same * jnp.linspace(-1, 1, 32)[:, None, None]
    assert float(representation_metrics(line, line, None)["dimensions_h"]) == pytest.approx(1, rel=1e-4)
    # One image has no other one to be compared with.
    assert all(np.isfinite(list(representation_metrics(same[:1], same[:1], None).values())))
