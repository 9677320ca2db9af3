"""Files of every kind are read as a viewer shows them, and never end the process."""

import io
import re
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps
import pytest

from simclr_jax.augment import image_files
from simclr_jax.augment import tf_crops
from simclr_jax.augment.orientation import ORIENTATION_TAG
from simclr_jax.errors import UserError
from simclr_jax.inference import images
from simclr_jax.runtime.tensorflow import tf


def picture(height=32, width=48, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def with_alpha():
    image = picture()
    image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 48), dtype=np.uint8)))
    return image


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return exif


def bmp_565():
    """16 bits a pixel, 5 for red, 6 for green, 5 for blue."""
    pixels = np.asarray(picture()).astype(np.uint16)[::-1]
    packed = (pixels[..., 0] >> 3 << 11) | (pixels[..., 1] >> 2 << 5) | (pixels[..., 2] >> 3)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<2sIII", b"BM", 66 + packed.size * 2, 0, 66)
    return header + struct.pack("<IiiHHIIiiII", 40, 48, 32, 1, 16, 3, 0, 0, 0, 0, 0) + masks + packed.tobytes()


frames = {"save_all": True, "append_images": [ImageOps.invert(picture())] * 3}
image_files.readable_extensions()  # lets Pillow write them too
FILES = {
    "jpg": encoded(picture(), "JPEG"),
    "grey jpg": encoded(picture().convert("L"), "JPEG"),
    "cmyk jpg": encoded(picture().convert("CMYK"), "JPEG"),
    "png": encoded(picture(), "PNG"),
    "palette png": encoded(picture().quantize(64), "PNG"),
    "png alpha": encoded(with_alpha(), "PNG"),
    "gif": encoded(picture().quantize(64), "GIF"),
    "animated gif": encoded(picture().quantize(64), "GIF", **frames),
    "apng": encoded(picture(), "PNG", **frames),
    "webp": encoded(picture(), "WEBP"),
    "lossless webp": encoded(picture(), "WEBP", lossless=True),
    "webp alpha": encoded(with_alpha(), "WEBP"),
    "animated webp": encoded(picture(), "WEBP", **frames),
    "bmp": encoded(picture(), "BMP"),
    "palette bmp": encoded(picture().quantize(64), "BMP"),
    "1-bit bmp": encoded(picture().convert("1"), "BMP"),
    "grey bmp": encoded(picture().convert("L"), "BMP"),
    "bmp alpha": encoded(with_alpha(), "BMP"),
    "565 bmp": bmp_565(),
    "tiff": encoded(picture(), "TIFF"),
    "cmyk tiff": encoded(picture().convert("CMYK"), "TIFF"),
    "avif": encoded(picture(), "AVIF"),
    "jpeg 2000": encoded(picture(), "JPEG2000"),
    "heic": encoded(picture(), "HEIF"),
    "jpeg xl": encoded(picture(), "JXL"),
    "1x1": encoded(picture(1, 1), "JPEG"),
    "1x500": encoded(picture(1, 500), "PNG"),
}


def as_shown(content):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_as_it_is_shown(kind):
    pixels = image_files.decode(tf.constant(FILES[kind])).numpy()
    assert pixels.dtype == np.uint8
    shown = as_shown(FILES[kind])
    assert pixels.shape == shown.shape
    assert np.abs(pixels - shown).max() <= 5, "but for the rounding of another decoder of JPEG"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_of_a_photograph_is_followed(form, orientation):
    content = encoded(picture(), form, exif=turned(orientation))
    shown = as_shown(content)
    assert shown.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    assert np.abs(image_files.decode(tf.constant(content)).numpy() - shown).max() <= 5
    # Also where one op would decode and crop a JPEG.
    (crop,) = tf_crops.open_cropped(tf.constant(content), [lambda shape: tf.stack([2, 3, shape[0] - 4, shape[1] - 5])])
    assert np.abs(crop.numpy() - shown[2:-2, 3:-2]).max() <= 5


def test_upright_photographs_keep_the_fast_decoder():
    assert image_files.is_surely_plain(tf.constant(FILES["jpg"]))
    with_metadata = encoded(picture(), "JPEG", exif=turned(1))
    assert not image_files.is_surely_plain(tf.constant(with_metadata))
    assert image_files.is_plain(with_metadata)
    damaged = with_metadata.replace(b"MM\0*", b"XX\0*").replace(b"II*\0", b"XX*\0")
    assert damaged != with_metadata
    assert image_files.is_plain(damaged), "as in viewers"


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_late_exif(orientation, between):
    """A JPEG with other segments before its Exif segment."""
    content = encoded(picture(), "JPEG", exif=turned(orientation))
    return content[:2] + between + content[2:]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(orientation, kind):
    """A PNG of more than 4 kB whose metadata comes after its pixels."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    content, end = encoded(noise, "PNG"), len(chunk(b"IEND", b""))
    assert len(content) > 4096
    exif = turned(orientation).tobytes()
    as_text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    metadata = {
        "exif": chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")),
        "profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(as_text)),
    }
    return content[:-end] + metadata[kind] + content[-end:]


THUMBNAIL = segment(0xED, b"Photoshop 3.0\0" + FILES["jpg"] + FILES["jpg"])
LATE = {
    "comment": with_late_exif(6, segment(0xFE, b"x" * 6000)),
    "fill bytes": with_late_exif(6, segment(0xFE, b"\xff" * 6000) + b"\xff\xff"),
    "thumbnail": with_late_exif(6, THUMBNAIL * 5),
    "profiles": with_late_exif(6, segment(0xE2, b"ICC_PROFILE\0" + b"x" * 65000) * 3),
    "png": png_with(6, "exif"),
    "profile in png": png_with(6, "profile"),
}


@pytest.mark.parametrize("kind", LATE)
def test_an_orientation_is_followed_wherever_it_is_in_the_file(kind):
    content = LATE[kind]
    shown = as_shown(content)
    assert shown.shape == (48, 32, 3)
    assert np.abs(image_files.decode(tf.constant(content)).numpy() - shown).max() <= 5
    (crop,) = tf_crops.open_cropped(tf.constant(content), [lambda shape: tf.stack([2, 3, shape[0] - 4, shape[1] - 5])])
    assert np.abs(crop.numpy() - shown[2:-2, 3:-2]).max() <= 5
    assert not image_files.is_plain(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_pil_image_is_turned_upright_as_its_file(form, tmp_path):
    content = encoded(picture(), form, exif=turned(6))
    (tmp_path / "a").write_bytes(content)
    for image in (tmp_path / "a", Image.open(tmp_path / "a")):
        pixels = image_files.decode(tf.constant(images._encoded(image, 0)[0])).numpy()
        assert np.abs(pixels - as_shown(content)).max() <= 5
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a"))  # by the user already
    np.testing.assert_array_equal(image_files.decode_with_pillow(images._encoded(upright, 0)[0]), as_shown(content))


def test_an_exif_segment_inside_another_segment_turns_nothing():
    plain = FILES["jpg"]
    content = plain[:2] + segment(0xFE, encoded(picture(), "JPEG", exif=turned(6))) + plain[2:]
    assert as_shown(content).shape == (32, 48, 3)
    assert image_files.is_plain(content)


def test_damaged_metadata_of_a_webp_turns_nothing():
    content = encoded(picture(), "WEBP", exif=turned(6))
    damaged = content.replace(b"MM\0*", b"XX\0*").replace(b"II*\0", b"XX*\0")
    assert damaged != content
    assert image_files.decode(tf.constant(damaged)).shape == (32, 48, 3)


@pytest.mark.parametrize("bits", ["png", "tiff"])
def test_sixteen_bits_become_eight(bits):
    grey = np.asarray(picture().convert("L")).astype(np.uint16) * 257
    pixels = image_files.decode(tf.constant(encoded(Image.fromarray(grey), bits.upper())))
    np.testing.assert_array_equal(pixels, np.repeat((grey // 257)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello world", "not an image"),
        (encoded(picture(300, 300), "JPEG")[:-2000], "truncated"),
        (encoded(with_alpha(), "WEBP")[:80], ""),
        (b"RIFF\0\0\0\0WEBPVP8 ", ""),
    ],
)
def test_what_cannot_be_read_fails_with_a_reason(content, reason):
    data = tf.data.Dataset.from_tensors(content).map(image_files.decode)
    with pytest.raises(tf.errors.OpError):
        list(data)
    assert reason in image_files.problem(content)


READ = image_files.Decoding(truncated_jpeg="read")


@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 50, 400])
def test_a_truncated_jpeg_is_read_up_to_where_it_ends(orientation, progressive, missing):
    exif = {} if orientation is None else {"exif": turned(orientation)}
    whole = encoded(picture(96, 128), "JPEG", progressive=progressive, quality=90, **exif)
    cut = whole[:-missing]
    with pytest.raises(tf.errors.OpError):
        image_files.decode(image_files.DEFAULT_DECODING.completed(tf.constant(cut)))
    assert "truncated_jpeg=read reads what there is of it" in image_files.problem(cut)
    pixels = image_files.decode(READ.completed(tf.constant(cut))).numpy().astype(int)
    np.testing.assert_allclose(pixels, image_files.decode_with_pillow(cut + b"\xff\xd9"), atol=5)
    full = image_files.decode(tf.constant(whole)).numpy().astype(int)
    if orientation == 6:  # a quarter turn
        pixels, full = np.rot90(pixels), np.rot90(full)
    if missing <= 2:
        np.testing.assert_array_equal(pixels, full)
    elif not progressive:
        np.testing.assert_array_equal(pixels[:32], full[:32])
    assert np.abs(pixels - full).mean() < 40
    (crop,) = tf_crops.open_cropped(READ.completed(tf.constant(cut)), [lambda shape: tf.constant([8, 8, 40, 40])])
    # Colours at the edge of a crop are interpolated without those beside it, also in a whole file.
    np.testing.assert_array_equal(crop[:, :-1], image_files.decode(READ.completed(tf.constant(cut)))[8:48, 8:47])


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_are_the_same_where_truncated_ones_are_read(kind):
    completed = READ.completed(tf.constant(FILES[kind])).numpy()
    assert completed == FILES[kind]


def test_a_jpeg_with_more_after_its_end_is_the_same():
    more = FILES["jpg"] + b"\0" * 64
    np.testing.assert_array_equal(
        image_files.decode(READ.completed(tf.constant(more))), image_files.decode(tf.constant(FILES["jpg"]))
    )


def test_what_has_no_pixels_stays_unreadable():
    for content in (b"", b"\xff\xd8\xff", encoded(picture(), "JPEG")[:100], FILES["png"][:-40]):
        with pytest.raises(tf.errors.OpError):
            image_files.decode(READ.completed(tf.constant(content)))


@pytest.mark.parametrize(
    ("dtype", "form"), [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]
)
def test_wide_grey_images_in_memory_are_scaled_as_their_files(dtype, form):
    values = np.linspace(0, 1, 12 * 16).reshape(12, 16) * (1 if dtype == np.float32 else 65535)
    image = Image.fromarray(values.astype(dtype))
    content = encoded(image, form)
    ((in_memory, _),) = [images._encoded(image, 0)]
    of_file = image_files.decode_with_pillow(content)
    np.testing.assert_array_equal(image_files.decode_with_pillow(in_memory), of_file)
    assert len(np.unique(of_file)) > 100
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(image_files.decode_with_pillow(images._encoded(opened, 0)[0]), of_file)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.linspace(0, 255, 192, dtype=np.float32),
            r"read in \[0, 1\], but the values go from 0 to 255: divide by 255",
        ),
        (np.linspace(0, 4000, 192, dtype=np.float32), "from 0 to 4000: divide by the value of white"),
        (np.linspace(-2, 2, 192, dtype=np.float32), "from -2 to 2, as standardised images have"),
        (np.where(np.arange(192) == 7, np.nan, 0.5).astype(np.float32), "NaN or infinite"),
        (
            np.linspace(0, 255, 192).astype(np.int32),
            r"read in \[0, 65535\], but the values go from 0 to 255: save it with 8",
        ),
        (np.linspace(0, 65536, 192).astype(np.int32), "from 0 to 65536"),
        (np.linspace(-1, 65535, 192).astype(np.int32), "from -1 to 65535"),
    ],
)
def test_wide_grey_images_of_another_range_are_refused(values, message, tmp_path):
    image = Image.fromarray(values.reshape(12, 16))
    content = encoded(image, "TIFF")
    with pytest.raises(tf.errors.OpError):
        image_files.decode(tf.constant(content))
    with pytest.raises(ValueError, match=message):
        image_files.decode_with_pillow(content)
    assert re.search(message, image_files.problem(content))
    with pytest.raises(UserError, match=f"cannot read the image number 3: .*{message}"):
        images._encoded(image, 3)
    (tmp_path / "a.tiff").write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read the image .*a.tiff: .*{message}"):
        images._encoded(Image.open(tmp_path / "a.tiff"), 3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_grey_images_may_be_black_and_overshoot(dtype):
    black = Image.fromarray(np.zeros([12, 16], dtype))
    assert not np.any(image_files.decode_with_pillow(encoded(black, "TIFF")))
    if dtype == np.float32:
        over = Image.fromarray(np.linspace(-0.2, 1.2, 192, dtype=np.float32).reshape(12, 16))
        assert np.ptp(image_files.decode_with_pillow(encoded(over, "TIFF"))) == 255
