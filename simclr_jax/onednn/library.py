"""oneDNN's C library, through `ctypes`: convolutions on arrays at given addresses.

All of it runs in one thread, whoever calls. OpenMP keeps threads for every core for each thread that computes with it, and
some of oneDNN's convolutions keep memory that only the thread has that made them.

Source: https://uxlfoundation.github.io/oneDNN, and its header dnnl.h for the numbers below.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import concurrent.futures
import contextlib
import ctypes
from ctypes import c_int
from ctypes import c_int64
from ctypes import c_size_t
from ctypes import c_void_p
import dataclasses
import functools
import importlib.metadata
import logging
import os
from typing import Any

import numpy as np

log = logging.getLogger("simclr_jax")

PACKAGE = "onednn-cpu-gomp"
SWITCH = "SIMCLR_JAX_ONEDNN"

DTYPES = {"bfloat16": 2, "float32": 3}
# The three functions of a convolution, each with two inputs and one output: images x, kernel, outputs y, and gradients.
FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = range(3)
# oneDNN's names of their inputs and output.
ARGUMENTS = {FORWARD: (1, 33, 17), INPUT_GRADIENT: (145, 33, 129), KERNEL_GRADIENT: (1, 145, 161)}
# Where the kernel is among them, and which query of a primitive describes it.
KERNEL_AT = {FORWARD: 1, INPUT_GRADIENT: 1, KERNEL_GRADIENT: 2}
KERNEL_QUERY = {FORWARD: 131, INPUT_GRADIENT: 131, KERNEL_GRADIENT: 132}
REORDER = (1, 17)
CPU, IN_ORDER, TRAINING, DIRECT, ANY_ORDER = 1, 1, 64, 1, 1
# Of the instructions of a CPU. Without them oneDNN takes three times as long for bfloat16 as for float32.
HAS_BFLOAT16 = 0x80
ALIGNMENT = 64  # bytes


class UnsupportedError(Exception):
    """oneDNN does not have this on this machine."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution of NHWC images with an HWIO kernel.

    Attributes:
      images: batch, height, width, channels.
      kernel: height, width.
      outputs: batch, height, width, features.
      strides: of height and width.
      before, after: pixels of padding, of height and width, fewer than those of the kernel.
    """

    images: tuple[int, int, int, int]
    kernel: tuple[int, int]
    outputs: tuple[int, int, int, int]
    strides: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]


@functools.cache
def load() -> ctypes.CDLL | None:
    """oneDNN, with an engine, a stream and its thread; None where it is not installed, cannot be loaded, or is turned off."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    path = next((file.locate() for file in files if file.name == "libdnnl.so.3"), None)
    try:
        with _passive_threads():
            return _opened(str(path))
    except (OSError, AttributeError, UnsupportedError) as error:
        log.warning("%s is installed, but cannot be used (%s). Convolutions take longer without it.", PACKAGE, error)
        return None


@contextlib.contextmanager
def _passive_threads() -> Iterator[None]:
    """Threads of OpenMP that sleep while XLA computes, instead of waiting actively. libgomp asks when it is loaded."""
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]


def _opened(path: str) -> Any:
    lib: Any = ctypes.CDLL(path)
    lib.dnnl_primitive_desc_query_md.restype = c_void_p
    lib.dnnl_memory_desc_get_size.restype = c_size_t
    lib.engine, lib.stream = c_void_p(), c_void_p()
    _check(lib.dnnl_engine_create(ctypes.byref(lib.engine), CPU, c_size_t(0)))
    _check(lib.dnnl_stream_create(ctypes.byref(lib.stream), lib.engine, IN_ORDER))
    lib.thread = concurrent.futures.ThreadPoolExecutor(1, "oneDNN", functools.partial(_take_all_cores, lib))
    return lib


def _take_all_cores(lib: Any) -> None:
    """As XLA does, whatever OpenMP would do by itself.

    oneDNN divides a convolution among as many threads as OpenMP promises. Kernel gradients are wrong, or never end, where it
    then starts fewer, as with OMP_DYNAMIC or OMP_THREAD_LIMIT, and take a hundred times as long where cores have to be shared.
    """
    lib.omp_set_dynamic(0)
    lib.omp_set_num_threads(min(len(os.sched_getaffinity(0)), lib.omp_get_thread_limit()))


def _in_thread(lib: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in oneDNN's thread, and waits for it."""
    future = lib.thread.submit(function, *arguments)
    try:
        future.result()
    finally:  # Ctrl-C may end the wait above, while the function writes into arrays of the caller
        concurrent.futures.wait([future])


def _check(status: int) -> None:
    if status:
        raise UnsupportedError(f"oneDNN's status {status}")


def _made(create: Callable[..., int], *arguments: Any) -> c_void_p:
    """What one of the functions creates that fill in their first argument."""
    made = c_void_p()
    _check(create(ctypes.byref(made), *arguments))
    return made


def _dims(values: Sequence[int]) -> Any:
    return (c_int64 * len(values))(*values)


class _Scratch:
    """Memory for one reordered kernel, which all convolutions use in turn: as much as the largest one needs."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def reserve(self, size: int) -> None:
        if size + ALIGNMENT > len(self._memory):
            self._memory = np.empty(size + ALIGNMENT, np.uint8)

    @property
    def address(self) -> int:
        return -(-self._memory.ctypes.data // ALIGNMENT) * ALIGNMENT


_scratch = _Scratch()


class _Argument(ctypes.Structure):
    _fields_ = (("name", c_int), ("memory", c_void_p))


class Convolution:
    """One of the three functions for one geometry.

    The images stay in their order. The kernel is reordered, before or after, because oneDNN stores it in another order.

    Args:
      lib: what `load` returned.
      function: FORWARD, INPUT_GRADIENT or KERNEL_GRADIENT.
      dtype: bfloat16 or float32, of all arrays. Sums are float32.
      geometry: the sizes.

    Raises:
      UnsupportedError: if oneDNN does not have it for this CPU.
    """

    def __init__(self, lib: Any, function: int, dtype: str, geometry: Geometry):
        self._lib = lib
        if dtype == "bfloat16" and not lib.dnnl_get_effective_cpu_isa() & HAS_BFLOAT16:
            raise UnsupportedError("bfloat16 on a CPU without its instructions")
        _in_thread(lib, self._make, function, dtype, geometry)

    def _make(self, function: int, dtype: str, geometry: Geometry) -> None:
        lib = self._lib
        images, outputs = (self._images(each, dtype) for each in (geometry.images, geometry.outputs))
        channels, features = geometry.images[-1], geometry.outputs[-1]
        height, width = geometry.kernel
        sizes = (features, channels, height, width)
        kernel = self._strided(sizes, (1, features, width * channels * features, channels * features), dtype)
        primitive = self._primitive(function, dtype, images, sizes, outputs, geometry)
        chosen = c_void_p(lib.dnnl_primitive_desc_query_md(primitive, KERNEL_QUERY[function], 0))
        described = {
            FORWARD: (images, kernel, outputs),
            INPUT_GRADIENT: (outputs, kernel, images),
            KERNEL_GRADIENT: (images, outputs, kernel),
        }[function]
        self._arrays = [_made(lib.dnnl_memory_create, each, lib.engine, None) for each in described]
        self._reordered = reordered = _made(lib.dnnl_memory_create, chosen, lib.engine, None)
        _scratch.reserve(lib.dnnl_memory_desc_get_size(chosen))

        memories = list(self._arrays)
        memories[KERNEL_AT[function]] = reordered
        convolve = self._step(primitive, ARGUMENTS[function], memories)
        if function == KERNEL_GRADIENT:
            self._steps = [convolve, self._reorder((chosen, reordered), (kernel, self._arrays[2]))]
        else:
            self._steps = [self._reorder((kernel, self._arrays[1]), (chosen, reordered)), convolve]

    def __call__(self, *addresses: int) -> None:
        """Compute on two inputs and one output at these addresses, with all cores."""
        _in_thread(self._lib, self._compute, *addresses)

    def _compute(self, *addresses: int) -> None:
        for memory, address in zip((*self._arrays, self._reordered), (*addresses, _scratch.address), strict=True):
            _check(self._lib.dnnl_memory_set_data_handle(memory, c_void_p(address)))
        for primitive, number, arguments in self._steps:
            _check(self._lib.dnnl_primitive_execute(primitive, self._lib.stream, number, arguments))
        _check(self._lib.dnnl_stream_wait(self._lib.stream))

    def _strided(self, sizes: Sequence[int], strides: Sequence[int], dtype: str) -> c_void_p:
        create = self._lib.dnnl_memory_desc_create_with_strides
        return _made(create, len(sizes), _dims(sizes), DTYPES[dtype], _dims(strides))

    def _images(self, shape: tuple[int, int, int, int], dtype: str) -> c_void_p:
        """NHWC in memory; oneDNN names the sizes in the order NCHW."""
        batch, height, width, channels = shape
        strides = (height * width * channels, 1, width * channels, channels)
        return self._strided((batch, channels, height, width), strides, dtype)

    def _primitive(
        self, function: int, dtype: str, images: Any, sizes: Sequence[int], outputs: Any, geometry: Geometry
    ) -> c_void_p:
        lib = self._lib

        def kernel(dtype: str) -> c_void_p:  # in the order that oneDNN likes best
            return _made(lib.dnnl_memory_desc_create_with_tag, len(sizes), _dims(sizes), DTYPES[dtype], ANY_ORDER)

        window = [_dims(each) for each in (geometry.strides, (0, 0), geometry.before, geometry.after)]
        create = lib.dnnl_convolution_forward_primitive_desc_create
        forward = _made(create, lib.engine, TRAINING, DIRECT, images, kernel(dtype), None, outputs, *window, None)
        if function == FORWARD:
            return forward
        if function == INPUT_GRADIENT:
            create = lib.dnnl_convolution_backward_data_primitive_desc_create
            return _made(create, lib.engine, DIRECT, images, kernel(dtype), outputs, *window, forward, None)
        create = lib.dnnl_convolution_backward_weights_primitive_desc_create
        # Sums over the batch stay in float32 until they are reordered.
        return _made(create, lib.engine, DIRECT, images, kernel("float32"), None, outputs, *window, forward, None)

    def _reorder(self, source: tuple[Any, Any], target: tuple[Any, Any]) -> tuple[Any, int, Any]:
        create, engine = self._lib.dnnl_reorder_primitive_desc_create, self._lib.engine
        description = _made(create, source[0], engine, target[0], engine, None)
        return self._step(description, REORDER, (source[1], target[1]))

    def _step(self, description: c_void_p, names: Sequence[int], memories: Sequence[Any]) -> tuple[Any, int, Any]:
        primitive = _made(self._lib.dnnl_primitive_create, description)
        arguments = [_Argument(name, memory.value) for name, memory in zip(names, memories, strict=True)]
        return primitive, len(arguments), (_Argument * len(arguments))(*arguments)
