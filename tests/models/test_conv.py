"""Convolutions equal XLA's in value and gradients, and stay on their devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import conv

NUMBERS = ("NHWC", "HWIO", "NHWC")


def check_against_xla(images, size, window, stride, padding, dtype=np.float32, place=lambda x: x):
    """Compare the value and both gradients of a jitted convolution; return it with its arguments."""
    x = place(jax.random.normal(jax.random.key(0), (images, size, size, 7)).astype(dtype))
    kernel = jax.random.normal(jax.random.key(1), (*window, 7, 6)).astype(dtype)
    options = {"window_strides": (stride, stride), "padding": padding, "dimension_numbers": NUMBERS}

    def run(convolve, x, kernel):
        def loss(x, kernel):
            out = convolve(x, kernel, **options)
            weights = jax.random.normal(jax.random.key(2), out.shape).astype(out.dtype)
            return jnp.sum((out * weights).astype(jnp.float32)), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

    ours = jax.jit(lambda *args: run(conv.conv_general_dilated, *args))
    (_, expected), expected_grads = run(jax.lax.conv_general_dilated, x, kernel)
    (_, out), grads = ours(x, kernel)
    tolerance = 2e-5 if dtype == np.float32 else 2e-2
    for got, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert got.dtype == wanted.dtype
        got, wanted = np.asarray(got, np.float32), np.asarray(wanted, np.float32)
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max())
    return ours, x, kernel


@pytest.mark.parametrize(("size", "window", "stride"), [(2, 3, 1), (4, 3, 2), (1, 3, 1), (2, 1, 1), (4, 1, 2)])
def test_tiny_convolutions_are_products_and_equal_xlas(size, window, stride):
    pad = (window - 1) // 2
    ours, x, kernel = check_against_xla(5, size, (window, window), stride, ((pad, pad), (pad, pad)))
    assert "conv_general_dilated" not in str(ours.trace(x, kernel).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "size", "window", "stride", "padding"),
    [
        (16, 8, (3, 3), 1, ((1, 1), (1, 1))),
        (16, 9, (3, 3), 2, ((1, 1), (1, 1))),  # the last column of padding is not used
        (16, 8, (3, 3), 2, ((1, 1), (1, 1))),
        (16, 8, (1, 1), 2, ((0, 0), (0, 0))),
        (24, 16, (7, 7), 2, ((3, 3), (3, 3))),
        (6, 7, (3, 2), 1, ((0, 1), (2, 0))),
        (1, 8, (3, 3), 1, ((1, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_gradients_on_a_cpu_equal_xlas(monkeypatch, images, size, window, stride, padding, dtype):
    monkeypatch.setattr(conv, "PATCHES_BYTES", 40_000)  # several products of a few images each
    check_against_xla(images, size, window, stride, padding, dtype)


@pytest.mark.slow
def test_kernel_gradients_stay_on_their_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))  # noqa: E731
    ours, x, kernel = check_against_xla(32, 8, (3, 3), 1, ((1, 1), (1, 1)), place=place)
    text = ours.lower(x, kernel).compile().as_text()
    moves = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in text]
    assert moves == []
    # One for the loss and one for the kernel gradient, or one for both; none in the loop.
    assert 1 <= text.count(" all-reduce(") <= 2


def test_tpu_programs_have_xlas_own_gradients():
    def loss(x, kernel):
        options = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "dimension_numbers": NUMBERS}
        return jnp.sum(conv.conv_general_dilated(x, kernel, **options) ** 2)

    arguments = jnp.ones((16, 8, 8, 7)), jnp.ones((3, 3, 7, 6))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arguments)
    loops = {name: "while" in traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")}
    assert loops == {"cpu": True, "tpu": False}
