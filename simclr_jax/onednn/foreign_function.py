"""A Python function that XLA calls on a CPU with the addresses of its arrays (`jax.ffi`). Nothing is copied.

`jax.pure_callback` would copy what the function returns, which takes as long as a convolution. XLA's interface is C; the
structures below are the beginnings of those in jaxlib's xla/ffi/api/c_api.h, which XLA extends at their ends only.
"""

import _thread
from collections.abc import Callable
from collections.abc import Sequence
import ctypes
from ctypes import POINTER
from ctypes import c_char_p
from ctypes import c_int
from ctypes import c_int64
from ctypes import c_size_t
from ctypes import c_void_p
from typing import Any
from typing import ClassVar

import jax

METADATA, INTERNAL_ERROR = 1, 13

# `function(addresses of inputs and outputs, integers of the call)`
Function = Callable[[Sequence[int], tuple[int, ...]], None]


class _Header(ctypes.Structure):
    _fields_: ClassVar[tuple[tuple[str, Any], ...]] = (("size", c_size_t), ("extension", c_void_p))


class _Version(_Header):
    _fields_ = (("major", c_int), ("minor", c_int))


class _Metadata(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("version", _Version))


class _Extension(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("type", c_int), ("next", c_void_p), ("metadata", POINTER(_Metadata)))


class _Error(_Header):
    _fields_ = (("message", c_char_p), ("code", c_int))


class _Api(_Header):
    _fields_ = (
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", ctypes.CFUNCTYPE(c_void_p, POINTER(_Error))),
    )


class _Buffer(_Header):
    _fields_ = (("dtype", c_int), ("address", c_void_p))


class _Buffers(_Header):
    _fields_ = (
        ("number", c_int64),
        ("types", c_void_p),
        ("items", POINTER(POINTER(_Buffer))),
    )


class _Integers(ctypes.Structure):
    _fields_ = (("dtype", c_int), ("number", c_size_t), ("items", POINTER(c_int64)))


class _Attributes(_Header):
    _fields_ = (
        ("number", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("items", POINTER(POINTER(_Integers))),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("inputs", _Buffers),
        ("outputs", _Buffers),
        ("attributes", _Attributes),
    )


_HANDLER = ctypes.CFUNCTYPE(c_void_p, POINTER(_Call))
_registered: list[Any] = []  # XLA keeps their addresses for the life of the process


def register(target: str, function: Function) -> None:
    """Let programs for the CPU call a function by `jax.ffi.ffi_call(target, ...)(*inputs, integers=array)`.

    Args:
      target: the name. Register each name once.
      function: computes the outputs in place. It may run in any thread, in several at once. An exception ends the program
        with its message.
    """

    def handle(pointer: Any) -> int | None:
        call = pointer.contents
        if call.extension and call.extension.contents.type == METADATA:
            # XLA asks for which version this was built. All of version 0 begin with the fields above.
            version = call.extension.contents.metadata.contents.version
            version.major, version.minor = 0, call.api.contents.version.minor
            return None
        try:
            arrays = (call.inputs, call.outputs)
            addresses = [each.items[i].contents.address for each in arrays for i in range(each.number)]
            integers = call.attributes.items[0].contents
            function(addresses, tuple(integers.items[: integers.number]))
            return None
        except BaseException as error:  # nothing above this is Python
            if isinstance(error, KeyboardInterrupt):
                _thread.interrupt_main()
            message = f"{target}: {error!r}".encode()
            return call.api.contents.create_error(_Error(ctypes.sizeof(_Error), None, message, INTERNAL_ERROR))

    handler = _HANDLER(handle)
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    _registered.append(handler)
