"""An image file as it is stored: unchanged where training can read it as it is, else upright, smaller, and a JPEG."""

import io

from simclr_jax.augment import image_files

JPEG_QUALITY = 95
# A JPEG is decoded at a half, a quarter or an eighth of its size, but not below this multiple of the size that is wanted.
DRAFT = 2


class Unreadable(Exception):
    """A file is no image that can be read; the message says why."""


def stored_form(content: bytes, shorter_side: int) -> bytes:
    """The file to store for an image file.

    The bytes are unchanged where TensorFlow decodes them as a viewer shows them and the shorter side has at most `shorter_side`
    pixels. Otherwise the image is decoded, turned upright, shrunk if it is larger, and encoded as JPEG.

    Args:
      content: a file of any kind that is read here, also HEIC.
      shorter_side: in pixels; 0: any size.

    Raises:
      Unreadable: with the reason.
    """
    from PIL import Image

    try:
        image_files.readable_extensions()  # registers the plugins
        with Image.open(io.BytesIO(content)) as opened:
            large = shorter_side > 0 and min(opened.size) > shorter_side
        if not large and image_files.is_plain(content):
            return content
        pixels = image_files.decode_with_pillow(content, draft_side=DRAFT * shorter_side if large else None)
        image = Image.fromarray(pixels)
        if large:
            image = image.resize(_smaller(image.size, shorter_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()
    except Exception:  # each decoder raises different errors
        raise Unreadable(image_files.problem(content)) from None


def _smaller(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height with the same proportions, where the shorter one is `shorter_side`."""
    scale = shorter_side / min(size)
    width, height = (max(shorter_side, round(side * scale)) for side in size)
    return width, height
