"""Decode image files as a viewer shows them: plain ones by TensorFlow, everything else by Pillow.

TensorFlow's decoders are fast, but they refuse WebP with alpha, read palettes of BMP as grey, ignore the orientation of a
photograph, and may abort the process on an animated WebP. So the first bytes of a file, and its metadata, decide who reads it.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import io
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import orientation
from simclr_jax.augment.orientation import JPEG
from simclr_jax.augment.value_range import grey_in_eight_bits
from simclr_jax.runtime.tensorflow import tf

# By how much a JPEG can be reduced while it is decoded.
RATIOS = (2, 4, 8)
END_OF_JPEG = b"\xff\xd9"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files are decoded; see the fields of `config.data` with these names."""

    truncated_jpeg: str = "skip"
    reduced_decode: bool = False

    @classmethod
    def of(cls, data: ConfigDict) -> Decoding:
        """That of `config.data`."""
        return cls(
            truncated_jpeg=data.get("truncated_jpeg") or cls.truncated_jpeg,
            reduced_decode=data.get("reduced_decode") is not False,  # unset: true
        )

    def completed(self, image: tf.Tensor) -> tf.Tensor:
        """A file as the decoders get it: where truncated JPEG files are read, with the marker that their end lacks.

        With that marker, libjpeg fills what is missing with grey, as viewers show it, in TensorFlow and in Pillow alike. Their
        own settings differ: TensorFlow's `try_recover_truncated` fails where a single byte is missing and ignores
        `acceptable_fraction`; Pillow's `LOAD_TRUNCATED_IMAGES` is for the whole process.

        Args:
          image: bytes (scalar string); pixels, which are uint8, are returned unchanged.
        """
        if self.truncated_jpeg == "skip" or image.dtype != tf.string:
            return image
        truncated = tf.io.is_jpeg(image) & (tf.strings.substr(image, -2, 2) != END_OF_JPEG)
        return tf.cond(truncated, lambda: tf.strings.join([image, END_OF_JPEG]), lambda: image)

    def completed_bytes(self, content: bytes) -> bytes:
        """`completed` without TensorFlow."""
        truncated = content[:3] == JPEG and content[-2:] != END_OF_JPEG
        return content + END_OF_JPEG if truncated and self.truncated_jpeg != "skip" else content


DEFAULT_DECODING = Decoding()


def is_surely_plain(image: tf.Tensor) -> tf.Tensor:
    """Whether a file (bytes, scalar string) is a JPEG, PNG or GIF without metadata that may turn it. Few ops, for speed."""
    known = tf.reduce_any(tf.strings.substr(image, 0, 3) == tf.constant([JPEG, b"\x89PN", b"GIF"]))
    return known & orientation.is_without_metadata(image)


def is_plain(content: bytes | np.ndarray) -> np.bool_:
    """Whether TensorFlow decodes a file as a viewer shows it."""
    content = _bytes(content)
    if content[:3] in (JPEG, b"\x89PN", b"GIF"):
        return np.bool_(orientation.is_upright(content))
    if content[:2] == b"BM":
        return np.bool_(content[28:34] == b"\x18\0\0\0\0\0")  # 24 bits a pixel, not compressed
    return np.bool_(content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8 ")  # no alpha, no animation, no metadata


def decode(image: tf.Tensor) -> tf.Tensor:
    """Decodes a file to uint8 `[height, width, 3]`, upright, without alpha, and the first frame of several.

    Args:
      image: bytes (scalar string); pixels, which are uint8, are returned unchanged.
    """
    if image.dtype != tf.string:
        return image
    pixels = _by_tensorflow_or_pillow(
        image,
        lambda: tf.io.decode_image(image, channels=3, expand_animations=False),
        lambda: tf.numpy_function(_decode_or_nothing, [image], tf.uint8),
    )
    pixels.set_shape([None, None, 3])
    return pixels


def decode_reduced(image: tf.Tensor, box: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """Decodes a box of a JPEG at a part of its size, much faster: uint8 `[box height, box width, 3]`.

    Args:
      image: bytes (scalar string).
      box: int32 `[top, left, height, width]`, upright, in pixels of the reduced image.
      ratio: int32, one of `RATIOS`. Height and width of the image are divided by it, and rounded up.
    """

    def by_tensorflow():
        decode = tf.io.decode_and_crop_jpeg
        branches = {place: functools.partial(decode, image, box, 3, ratio) for place, ratio in enumerate(RATIOS)}
        return tf.switch_case(tf.reduce_sum(tf.cast(ratio > RATIOS, tf.int32)), branches)

    def by_pillow():
        pixels = tf.numpy_function(_decode_or_nothing, [image, ratio], tf.uint8)
        return pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    pixels = _by_tensorflow_or_pillow(image, by_tensorflow, by_pillow)
    pixels.set_shape([None, None, 3])
    return pixels


def _by_tensorflow_or_pillow(
    image: tf.Tensor, by_tensorflow: Callable[[], tf.Tensor], by_pillow: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """The pixels that one of two functions makes of a file; an error where there are none."""

    def checked():
        # TensorFlow would print the traceback of an exception in Python.
        pixels = by_pillow()
        with tf.control_dependencies([tf.debugging.assert_positive(tf.size(pixels), "not an image")]):
            return tf.identity(pixels)

    def by_either():
        return tf.cond(tf.numpy_function(is_plain, [image], tf.bool), by_tensorflow, checked)

    return tf.cond(is_surely_plain(image), by_tensorflow, by_either)


def upright_jpeg_shape(image: tf.Tensor) -> tf.Tensor:
    """Height, width and channels of a JPEG (bytes, scalar string) as `decode` shows it, int32 `[3]`. Does not decode it."""
    shape = tf.io.extract_jpeg_shape(image)
    on_its_side = tf.cond(
        is_surely_plain(image), lambda: False, lambda: tf.numpy_function(_is_on_its_side, [image], tf.bool)
    )
    return tf.where(on_its_side, tf.gather(shape, [1, 0, 2]), shape)


def decode_with_pillow(content: bytes | np.ndarray, ratio: int = 1, draft_side: int | None = None) -> np.ndarray:
    """Decodes a file to uint8 `[height, width, 3]` by Pillow and the plugins that are installed.

    Args:
      content: the file.
      ratio: a JPEG is decoded at 1 / `ratio` of its size.
      draft_side: a JPEG may be decoded smaller, in less time, as long as no side gets shorter than this many pixels.
    """
    from PIL import Image

    readable_extensions()  # registers the plugins
    with Image.open(io.BytesIO(_bytes(content))) as opened:
        if ratio > 1:
            opened.draft(None, (opened.width // ratio, opened.height // ratio))
        if draft_side is not None:
            opened.draft(None, (draft_side, draft_side))
        return pixels_of(orientation.upright(opened))


def size_of(content: bytes) -> tuple[int, int]:
    """Two sides of an image in pixels, which is not decoded."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return image.size


def pixels_of(image: Any) -> np.ndarray:
    """The pixels of a `PIL.Image.Image` of any mode, uint8 `[height, width, 3]`.

    Grey of 16 bits a pixel, also where 32 bits hold it, and floats in [0, 1] are scaled to 8 bits. Alpha is left out.

    Raises:
      ValueError: for grey of 32 bits or floats in another range; see `value_range`.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(grey_in_eight_bits(np.asarray(image))[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # its colours, without a warning
    return np.asarray(image.convert("RGB"))


def _decode_or_nothing(content: bytes | np.ndarray, ratio: np.ndarray | int = 1) -> np.ndarray:
    """`decode_with_pillow`, or an array without pixels where that fails."""
    try:
        return decode_with_pillow(content, int(ratio))
    except Exception:  # each decoder raises different errors
        return np.zeros([0, 0, 3], np.uint8)


@functools.cache
def readable_extensions() -> frozenset[str]:
    """The extensions of all files that Pillow can read: HEIC and JPEG XL where the plugins of the extra `formats` are there."""
    from PIL import Image

    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401  # importing it is enough
    return frozenset(extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def _is_on_its_side(content: bytes | np.ndarray) -> np.bool_:
    return np.bool_(orientation.is_on_its_side(_bytes(content)))


def reason_of(error: tf.errors.OpError) -> str:
    """What TensorFlow says of a file that it cannot open, without the names of its operations."""
    first = str(error.message).split("\n")[0]
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:\w+\].*", "", first)


def problem(content: bytes) -> str:
    """Why a file cannot be read."""
    from PIL import UnidentifiedImageError

    if not content:
        return "the file is empty"
    try:
        decode_with_pillow(content)
    except UnidentifiedImageError:
        return "it is not an image, or of a format that is not known here"
    except Exception as error:  # each decoder raises different errors
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if content[:3] == JPEG and _decode_or_nothing(content + END_OF_JPEG).size:
            reason += "; a run with --config.data.truncated_jpeg=read reads what there is of it"
        return reason
    return "TensorFlow cannot decode it, although Pillow can"


def _bytes(content: bytes | np.ndarray) -> bytes:
    """`tf.numpy_function` gives the bytes themselves, or an array of objects with them."""
    return content.item() if isinstance(content, np.ndarray) else content
