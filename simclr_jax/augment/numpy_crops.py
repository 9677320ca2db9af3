"""The central crop of an evaluation in NumPy and Pillow, for machines without TensorFlow: the twin of a part of `tf_crops`.

Resizing equals TensorFlow's kernel to a ten-thousandth of a level of uint8. Decoding does not: TensorFlow decodes JPEG files by
a faster, less accurate transform, so that pixels differ by a few levels.
"""

from jaxtyping import Float32
from jaxtyping import UInt8
import numpy as np

from simclr_jax.augment import image_files
from simclr_jax.augment.image_files import Decoding

# TensorFlow looks weights up in a table with this many entries for a pixel.
_TABLE = 1024


def decode(content: bytes | np.ndarray, decoding: Decoding, ratio: int = 1) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a file, or of an array, which is returned unchanged.

    Args:
      content: bytes of a file, or uint8 `[height, width, 3]`.
      decoding: how files are decoded.
      ratio: a JPEG is decoded at 1 / `ratio` of its size.

    Raises:
      Exception: of some type, where the file cannot be decoded.
    """
    if isinstance(content, np.ndarray):
        return content
    return image_files.decode_with_pillow(decoding.completed_bytes(content), ratio)


def central_crop(
    content: bytes | np.ndarray, proportion: float, size: int, decoding: Decoding
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Decodes an image, crops the central square whose side is `proportion` of its shorter side, and resizes it.

    A JPEG that is more than twice as large as it has to be is decoded at a part of its size, as by `tf_crops`.

    Args:
      content: as of `decode`.
      proportion: of the shorter side.
      size: side of the result in pixels.
      decoding: how files are decoded.

    Raises:
      Exception: of some type, where the file cannot be decoded.
    """
    ratio = 1
    if decoding.reduced_decode and isinstance(content, bytes) and content[:3] == image_files.JPEG:
        side = _side(min(image_files.size_of(content)), proportion)
        ratio = max((ratio for ratio in image_files.RATIOS if side >= size * ratio), default=1)
    pixels = decode(content, decoding, ratio)
    side = _side(min(pixels.shape[:2]), proportion)
    top, left = ((whole - side + 1) // 2 for whole in pixels.shape[:2])
    square = resize(pixels[top : top + side, left : left + side], size)
    return np.clip(np.round(square), 0, 255).astype(np.uint8)


def _side(shorter: int, proportion: float) -> int:
    return max(1, int(np.round(np.float32(shorter) * np.float32(proportion))))


def resize(image: UInt8[np.ndarray, "height width 3"], size: int) -> Float32[np.ndarray, "{size} {size} 3"]:
    """Bicubic without antialiasing, as `tf_crops.resize`, but in [0, 255]; values can be a little outside."""
    if image.shape[:2] == (size, size):
        return image.astype(np.float32)
    rows, row_weights = _neighbours(image.shape[0], size)
    columns, column_weights = _neighbours(image.shape[1], size)
    image = _weighted(image.astype(np.float32)[rows], row_weights[:, :, None, None])
    return _weighted(image.swapaxes(0, 1)[columns], column_weights[:, :, None, None]).swapaxes(0, 1)


def _neighbours(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each new pixel of a line, the four old ones around it, int `[size, 4]`, and their weights, float32 `[size, 4]`."""
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * (np.float32(side) / np.float32(size))
    place -= np.float32(0.5)
    before = np.floor(place)
    rest = (np.rint((place - before) * _TABLE) / _TABLE).astype(np.float32)
    distance = np.abs(np.stack([rest + 1, rest, 1 - rest, 2 - rest], axis=1))
    near = (1.5 * distance - 2.5) * distance**2 + 1  # Keys 1981, with a = -1/2
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    pixels = before.astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = np.where((pixels >= 0) & (pixels < side), np.where(distance < 1, near, far), np.float32(0))
    return np.clip(pixels, 0, side - 1), weights / weights.sum(axis=1, keepdims=True)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums `[n, 4, ...]` over the second axis, in TensorFlow's order."""
    first, second, third, fourth = (values[:, place] * weights[:, place] for place in range(4))
    return ((first + second) + third) + fourth
