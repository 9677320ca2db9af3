"""Convolutions by oneDNN equal XLA's, are used where they can be, and leave other cases to XLA."""

import concurrent.futures
import functools
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import threading
import types

from helpers import REPOSITORY
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import conv
from simclr_jax.onednn import convolutions
from simclr_jax.onednn import foreign_function
from simclr_jax.onednn import library

installed = pytest.mark.skipif(library.load() is None, reason=f"{library.PACKAGE} is not installed")


@pytest.fixture
def one_device(monkeypatch):
    """Eight simulated devices otherwise."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def arrays(images, size, channels, features, window, dtype):
    x = jax.random.normal(jax.random.key(0), (images, size, size, channels)).astype(dtype)
    kernel = jax.random.normal(jax.random.key(1), (*window, channels, features)).astype(dtype)
    return x, kernel


def value_and_grads(convolve, strides, padding):
    def loss(x, kernel):
        out = convolve(x, kernel, strides, padding)
        weights = jax.random.normal(jax.random.key(2), out.shape, np.float32).astype(out.dtype)
        return jnp.sum((out * weights).astype(jnp.float32)), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


CASES = [
    (16, 8, 7, 6, (3, 3), 1, ((1, 1), (1, 1))),
    (5, 9, 3, 16, (3, 3), 2, ((1, 1), (1, 1))),
    (6, 8, 32, 48, (3, 3), 2, ((1, 1), (1, 1))),  # the last column of padding is not used
    (6, 8, 16, 32, (1, 1), 2, ((0, 0), (0, 0))),
    (3, 9, 3, 8, (1, 1), 3, ((0, 0), (0, 0))),
    (4, 16, 3, 64, (7, 7), 2, ((3, 3), (3, 3))),
    (4, 12, 3, 8, (4, 4), 1, ((2, 1), (2, 1))),
    (6, 7, 5, 6, (3, 2), 1, ((0, 1), (1, 0))),
    (1, 6, 64, 64, (3, 3), 1, ((1, 1), (1, 1))),
]


@installed
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize(("images", "size", "channels", "features", "window", "stride", "padding"), CASES)
def test_values_and_gradients_equal_xlas(one_device, images, size, channels, features, window, stride, padding, dtype):
    x, kernel = arrays(images, size, channels, features, window, dtype)
    (_, out), grads = value_and_grads(conv._convolve, (stride, stride), padding)(x, kernel)
    # In float64, so that only one of both rounds.
    with jax.enable_x64():
        wide = (np.asarray(each, np.float64) for each in (x, kernel))
        exact = value_and_grads(conv._lax_convolve, (stride, stride), padding)
        (_, expected), expected_grads = exact(*wide)
    tolerance = 1e-6 if dtype == np.float32 else 1e-2
    for got, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert got.dtype == dtype
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max())


def lowered(platform, images=4, dtype=np.float32, size=8):
    """The program of a convolution and its gradients for a platform."""
    x, kernel = arrays(images, size, 3, 4, (3, 3), dtype)
    function = value_and_grads(lambda *a: conv.conv_general_dilated(*a), (1, 1), ((1, 1), (1, 1)))
    return function.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


@installed
def test_it_is_used_on_a_cpu_only(one_device):
    assert lowered("cpu").count(convolutions.TARGET) >= 3
    assert convolutions.TARGET not in lowered("tpu")
    assert convolutions.TARGET not in lowered("cpu", dtype=np.float16)
    assert convolutions.TARGET not in lowered("cpu", size=2)  # one matrix product


@installed
def test_padding_as_wide_as_the_kernel_uses_xla(one_device):
    x, kernel = arrays(6, 7, 5, 6, (3, 2), np.float32)
    assert convolutions.usable(x, kernel, ((2, 2), (1, 1)))
    assert not convolutions.usable(x, kernel, ((0, 1), (2, 0)))  # oneDNN 3.2 crashes
    assert not convolutions.usable(x, kernel, ((-1, 1), (0, 0)))


def test_several_devices_use_xlas():
    assert jax.device_count() == 8
    assert convolutions.TARGET not in lowered("cpu")


@installed
def test_a_program_for_any_batch_uses_xlas(one_device):
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 3), np.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), np.float32)
    function = jax.jit(lambda x, kernel: conv.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1))))
    assert convolutions.TARGET not in export.export(function, platforms=("cpu", "cuda", "tpu"))(x, kernel).mlir_module()


@installed
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_it_can_be_vmapped_with_gradients(one_device, mapped):
    x, kernel = arrays(6, 9, 3, 4, (3, 3), np.float32)
    x, kernel = (
        jnp.stack([each, 2 * each]) if axis == 0 else each for each, axis in zip((x, kernel), mapped, strict=True)
    )

    def of(convolve):
        loss = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, (2, 2), ((1, 1), (1, 1)))))  # noqa: E731
        return jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)), mapped))

    got, wanted = of(conv._convolve)(x, kernel), of(conv._lax_convolve)(x, kernel)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, wanted)


@installed
def test_images_of_a_vmap_are_one_batch(one_device):
    x, kernel = arrays(6, 8, 3, 4, (3, 3), np.float32)
    convolve = lambda x: conv._convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))  # noqa: E731
    several, batches = jax.jit(jax.vmap(convolve)), x.reshape(2, 3, 8, 8, 3)
    np.testing.assert_array_equal(several(batches).reshape(6, 8, 8, 4), jax.jit(convolve)(x))
    text = several.lower(batches).as_text()
    assert "stablehlo.while" not in text
    (line,) = (line for line in text.splitlines() if convolutions.TARGET in line)
    assert "(tensor<6x8x8x3xf32>" in line


@installed
def test_gradients_can_be_differentiated(one_device):
    x, kernel = arrays(4, 8, 3, 4, (3, 3), np.float32)

    def of(convolve):
        loss = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, (2, 2), ((1, 1), (1, 1)))))  # noqa: E731
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jax.grad(loss)(x, kernel) ** 2), argnums=(0, 1)))

    for got, wanted in zip(of(conv._convolve)(x, kernel), of(conv._lax_convolve)(x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


@installed
def test_calls_from_several_threads_do_not_mix(one_device):
    x, kernel = arrays(8, 16, 16, 16, (3, 3), np.float32)
    convolve = jax.jit(lambda x: conv._convolve(x, kernel, (1, 1), ((1, 1), (1, 1))))
    inputs = [x * factor for factor in range(1, 9)]
    expected = [np.asarray(convolve(each)) for each in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(convolve, inputs), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


@installed
def test_the_same_bits_every_time(one_device):
    x, kernel = arrays(32, 16, 16, 16, (3, 3), jnp.bfloat16)
    function = value_and_grads(conv._convolve, (1, 1), ((1, 1), (1, 1)))
    first = jax.tree.leaves(function(x, kernel))
    for _ in range(3):
        for got, wanted in zip(jax.tree.leaves(function(x, kernel)), first, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_an_error_in_a_foreign_function_has_its_message():
    def fail(addresses, integers):
        raise ValueError(f"{len(addresses)} arrays, {integers}")

    foreign_function.register("simclr_jax.tests.fail", fail)
    call = jax.ffi.ffi_call("simclr_jax.tests.fail", jax.ShapeDtypeStruct((2,), np.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"ValueError\('2 arrays, \(7, 8\)'\)"):
        jax.block_until_ready(jax.jit(functools.partial(call, integers=np.array([7, 8])))(jnp.ones(2)))


def test_a_package_that_cannot_be_loaded_is_said_and_not_used(monkeypatch, caplog, tmp_path):
    (tmp_path / "libdnnl.so.3").write_text("no library")
    file = types.SimpleNamespace(name="libdnnl.so.3", locate=lambda: pathlib.Path(tmp_path / "libdnnl.so.3"))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [file])
    assert library.load.__wrapped__() is None
    assert "onednn-cpu-gomp is installed, but cannot be used" in caplog.text


def test_it_can_be_missing_or_turned_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.load.__wrapped__() is None
    monkeypatch.delenv(library.SWITCH)
    monkeypatch.setattr(library, "PACKAGE", "simclr_jax-no-such-package")
    assert library.load.__wrapped__() is None


GRADIENTS = """
import jax, jax.numpy as jnp, numpy as np
from simclr_jax.models import conv
from simclr_jax.onednn import convolutions

x = jax.random.normal(jax.random.key(0), (16, 8, 8, 64))
kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 64)) / 24

def gradients(convolve, dtype):
    def loss(x, kernel):
        for _ in range(2):  # in a row, so that XLA calls from several threads
            x = jnp.sin(convolve(x, kernel, (1, 1), ((1, 1), (1, 1))))
        return jnp.sum(x.astype(jnp.float32) ** 2)
    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x.astype(dtype), kernel.astype(dtype))

for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 5e-2)):
    ours, xlas = (gradients(convolve, dtype) for convolve in (conv._convolve, conv._lax_convolve))
    assert convolutions.TARGET in ours.as_text()
    IN_FLOAT32
    arguments = x.astype(dtype), kernel.astype(dtype)
    got, wanted = (
        np.asarray(jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1))))(*arguments), np.float32)
        for convolve in (conv._convolve, conv._lax_convolve)
    )
    np.testing.assert_allclose(got, wanted, atol=1e-2 * np.abs(wanted).max())
    for got, wanted in zip(ours.compile()(*arguments), xlas.compile()(*arguments), strict=True):
        got, wanted = np.asarray(got, np.float32), np.asarray(wanted, np.float32)
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max())
"""


def check_gradients(monkeypatch, variable, value, more=""):
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    program = GRADIENTS.replace("IN_FLOAT32", more)
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, timeout=120)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("isa", ["AVX512_CORE", "AVX2", "AVX", "SSE41"])
def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch, isa):
    """The gradients of a CPU without AVX2 keep memory that belongs to the thread that made them."""
    in_float32 = (
        "calls = str([line for line in ours.as_text().splitlines() if convolutions.TARGET in line]); "
        "assert 'f32' in calls and 'bf16' not in calls, calls"
    )
    check_gradients(monkeypatch, "ONEDNN_MAX_CPU_ISA", isa, in_float32)


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("variable", "value"), [("OMP_DYNAMIC", "true"), ("OMP_THREAD_LIMIT", "1")])
def test_what_openmp_is_told_does_not_matter(monkeypatch, variable, value):
    """oneDNN's kernel gradients are wrong, or never end, where OpenMP starts fewer threads than it has promised."""
    check_gradients(monkeypatch, variable, value)


@installed
def test_all_of_it_runs_in_one_thread_on_all_cores(one_device, monkeypatch):
    """For each thread that calls it, OpenMP would keep one for every core."""
    threads = set()
    compute = library.Convolution._compute
    monkeypatch.setattr(
        library.Convolution,
        "_compute",
        lambda *arguments: (threads.add(threading.current_thread().name), compute(*arguments)),
    )
    x, kernel = arrays(8, 16, 16, 16, (3, 3), np.float32)
    convolve = jax.jit(lambda x: conv._convolve(x, kernel, (1, 1), ((1, 1), (1, 1))))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jax.block_until_ready(list(pool.map(convolve, [x] * 8)))
    assert threads == {"oneDNN_0"}
    lib = library.load()
    assert lib.thread.submit(lib.omp_get_max_threads).result() == len(os.sched_getaffinity(0))
