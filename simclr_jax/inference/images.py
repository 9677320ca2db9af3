"""Images in any form as sources, so that they are prepared by the pipeline of the evaluations."""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import itertools
import os
import struct
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.augment import image_files
from simclr_jax.augment import orientation
from simclr_jax.augment.value_range import problem_of_floats
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.data.sources.files import expanded
from simclr_jax.data.sources.files import of_files
from simclr_jax.data.sources.listing import images_below
from simclr_jax.data.sources.listing import is_text
from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tf

# Images of an iterator that are held at once: at most this many, and about this many bytes.
CHUNK = 1024
CHUNK_BYTES = 2**28


class EveryImage(BadImages):
    """Refuses the first image that cannot be read, instead of counting it."""

    def check(self, wanted: np.ndarray, used: np.ndarray, *, replaced: bool) -> None:
        bad = wanted[(wanted != used) & (wanted >= 0)]
        if len(bad):
            raise UserError(f"cannot read the image {self._source.describe(int(bad[0]))}{self.reason(int(bad[0]))}.")


def sources_of(images: Any) -> Iterator[Source]:
    """Sources that together have all images, in their order.

    Args:
      images: a path of a file, or of a folder with images at any depth; a PIL image; uint8 pixels `[height, width, 3]` or
        `[height, width]`; or a list, an array `[n, height, width, 3]` or any iterable of these, whose sizes may differ.
        An iterator is read in chunks, so that it can be longer than memory.

    Raises:
      UserError: for something that is no image, and for a path that does not exist.
    """
    if _is_path(images) and os.fspath(images) and epath.Path(folder := expanded(os.fspath(images))).is_dir():
        yield of_files(images_below(folder), name=folder)
        return
    if _is_one_image(images):
        images = [images]
    if not isinstance(images, Iterable):
        raise UserError(f"images are paths, PIL images or uint8 arrays, or iterables of them, not {_kind(images)}.")
    if isinstance(images, list | tuple) and images and all(_is_path(image) for image in images):
        yield of_files([_existing(image) for image in images])
        return
    number = 0
    for chunk in _chunks(_encoded(image, place) for place, image in enumerate(images)):
        ids = [name or f"number {number + place}" for place, (_, name) in enumerate(chunk)]
        yield _of_bytes([content for content, _ in chunk], ids)
        number += len(chunk)


def check_floats(images: Any) -> None:
    """A UserError unless an array can go to a network as it is: floats `[n, height, width, 3]` in [0, 1]."""
    shape, dtype = np.shape(images), getattr(images, "dtype", None)
    if not isinstance(dtype, np.dtype) or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise UserError(
            f"encoder(images) takes an array [n, height, width, 3], not {list(shape)}. For paths, PIL images and other sizes "
            "there is encoder.embed(images)."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"encoder(images) takes floats in [0, 1], not {dtype}: divide by 255, or call encoder.embed(images), which also "
            "crops and resizes."
        )
    if isinstance(images, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # a constant inside jax.jit has values too
        least, largest = float(images.min()), float(images.max())
    problem = problem_of_floats(least, largest)
    if problem:
        raise UserError(f"encoder(images) takes floats in [0, 1], but {problem}.")


def _of_bytes(contents: list[bytes], ids: list[str]) -> RandomAccess:
    return dataclasses.replace(
        of_files(ids),
        fetch=lambda index: tf.gather(tf.constant(contents), index),
        read_content=lambda index: contents[index],
    )


def _chunks(encoded: Iterable[tuple[bytes, str | None]]) -> Iterator[list[tuple[bytes, str | None]]]:
    encoded = iter(encoded)
    for first in encoded:
        chunk, size = [first], len(first[0])
        for one in itertools.islice(encoded, CHUNK - 1):
            chunk.append(one)
            size += len(one[0])
            if size > CHUNK_BYTES:
                break
        yield chunk


def _encoded(image: Any, number: int) -> tuple[bytes, str | None]:
    """The bytes of an image file, and its name if it has one. Pixels become an uncompressed BMP: no value changes."""
    if _is_path(image):
        path = _existing(image)
        return epath.Path(path).read_bytes(), path
    if hasattr(image, "convert"):  # a PIL image
        try:
            return _bmp(image_files.pixels_of(orientation.upright(image))), None
        except Exception as error:  # each decoder raises different errors
            name = getattr(image, "filename", "") or f"number {number}"
            raise UserError(f"cannot read the image {name}: {error}") from error
    if not hasattr(image, "__array__"):
        raise UserError(f"images are paths, PIL images or uint8 arrays, not {_kind(image)}.")
    return _bmp(np.asarray(image)), None


def _bmp(pixels: np.ndarray) -> bytes:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        shape = list(pixels.shape)
        raise UserError(f"an image of pixels is [height, width, 3] or [height, width], but one has the shape {shape}.")
    if pixels.dtype != np.uint8:
        raise UserError(
            f"an image of pixels is uint8, but one is {pixels.dtype}. Floats in [0, 1] of the right size go to encoder(images)."
        )
    height, width = pixels.shape[:2]
    rows = np.zeros((height, -(-3 * width // 4) * 4), np.uint8)  # rows begin at multiples of four bytes
    rows[:, : 3 * width] = np.broadcast_to(pixels, (height, width, 3))[..., ::-1].reshape(height, 3 * width)
    # A negative height: the first row is the top one.
    header = struct.pack("<2sIII", b"BM", 54 + rows.size, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, rows.size, 0, 0, 0, 0) + rows.tobytes()


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _is_one_image(images: Any) -> bool:
    if _is_path(images) or hasattr(images, "convert"):
        return True
    return hasattr(images, "__array__") and (np.ndim(images) == 2 or (np.ndim(images) == 3 and images.shape[-1] == 3))


def _existing(path: Any) -> str:
    path = expanded(os.fspath(path))
    if not path:
        raise UserError("the path of an image is empty: give that of a file, or a folder; '.' is the current one.")
    if not is_text(path):
        raise UserError(f"the name of the image {path!a} is not UTF-8: rename it.")
    if not epath.Path(path).exists() or epath.Path(path).is_dir():
        raise UserError(f"the image {path!r} does not exist{', it is a folder' * epath.Path(path).exists()}.")
    return path


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"
