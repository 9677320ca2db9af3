"""Decode image files as a viewer shows them: plain ones by TensorFlow, everything else by Pillow.

TensorFlow's decoders are fast, but they refuse WebP with alpha, read palettes of BMP as grey, ignore the orientation of a
photograph, and may abort the process on an animated WebP. So the first bytes of a file decide who reads it.
"""

import contextlib
import functools
import io

import numpy as np

from simclr_jax.runtime.tensorflow import tf

# How much of a file is searched for metadata.
HEAD = 4096
UPRIGHT, ORIENTATION_TAG = 1, 0x0112


def is_surely_plain(image: tf.Tensor) -> tf.Tensor:
    """Whether a file (bytes, scalar string) is a JPEG, PNG or GIF without metadata, which may turn it. Few ops, for speed."""
    known = tf.reduce_any(tf.strings.substr(image, 0, 3) == tf.constant([b"\xff\xd8\xff", b"\x89PN", b"GIF"]))
    return known & ~tf.strings.regex_full_match(tf.strings.substr(image, 0, HEAD), r"\C*(Exif|eXIf)\C*")  # \C: any byte


def is_plain(content: bytes | np.ndarray) -> np.bool_:
    """Whether TensorFlow decodes a file as a viewer shows it."""
    content = _bytes(content)
    if content[:3] in (b"\xff\xd8\xff", b"\x89PN", b"GIF"):
        return np.bool_(_is_upright(content))
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

    def by_tensorflow():
        return tf.io.decode_image(image, channels=3, expand_animations=False)

    def by_pillow():
        # TensorFlow would print the traceback of an exception in Python.
        pixels = tf.numpy_function(_decode_or_nothing, [image], tf.uint8)
        with tf.control_dependencies([tf.debugging.assert_positive(tf.size(pixels), "not an image")]):
            return tf.identity(pixels)

    def by_either():
        return tf.cond(tf.numpy_function(is_plain, [image], tf.bool), by_tensorflow, by_pillow)

    pixels = tf.cond(is_surely_plain(image), by_tensorflow, by_either)
    pixels.set_shape([None, None, 3])
    return pixels


def decode_with_pillow(content: bytes | np.ndarray, draft_side: int | None = None) -> np.ndarray:
    """Decodes a file to uint8 `[height, width, 3]` by Pillow and the plugins that are installed.

    Args:
      content: the file.
      draft_side: a JPEG may be decoded smaller, in less time, as long as no side gets shorter than this many pixels.
    """
    from PIL import Image
    from PIL import ImageOps

    readable_extensions()  # registers the plugins
    with Image.open(io.BytesIO(_bytes(content))) as opened:
        if draft_side is not None:
            opened.draft(None, (draft_side, draft_side))
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _of_wide_grey(np.asarray(image))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # its colours, without a warning
        return np.asarray(image.convert("RGB"))


def _decode_or_nothing(content: bytes | np.ndarray) -> np.ndarray:
    """`decode_with_pillow`, or an array without pixels where that fails."""
    try:
        return decode_with_pillow(content)
    except Exception:  # each decoder raises different errors
        return np.zeros([0, 0, 3], np.uint8)


def _of_wide_grey(grey: np.ndarray) -> np.ndarray:
    """16 bits a pixel, or floats in [0, 1], to 8 bits."""
    largest = 1.0 if np.issubdtype(grey.dtype, np.floating) else 65535.0
    return np.repeat(np.round(np.clip(grey / largest, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


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


def _is_upright(content: bytes) -> bool:
    """Whether no metadata turns a JPEG or PNG. Damaged metadata turns nothing, as in viewers."""
    from PIL import Image

    begin = content.find(b"Exif\0\0", 0, HEAD)
    exif = Image.Exif()
    try:
        if begin >= 0:
            exif.load(content[begin : begin + 2**16])
        else:  # a PNG
            with Image.open(io.BytesIO(content)) as image:
                exif = image.getexif()
        return exif.get(ORIENTATION_TAG, UPRIGHT) not in range(2, 9)
    except Exception:  # damage has errors of many types
        return True


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
        return str(error).strip().split("\n")[0] or type(error).__name__
    return "TensorFlow cannot decode it, although Pillow can"


def _bytes(content: bytes | np.ndarray) -> bytes:
    """`tf.numpy_function` gives the bytes themselves, or an array of objects with them."""
    return content.item() if isinstance(content, np.ndarray) else content
