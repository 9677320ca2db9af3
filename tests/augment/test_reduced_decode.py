"""Large JPEG files are decoded at a reduced size where that leaves enough pixels; everything else is the same to the bit."""

import io

from helpers import REPOSITORY
import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.augment import image_files
from simclr_jax.augment import tf_crops
from simclr_jax.augment.orientation import ORIENTATION_TAG
from simclr_jax.config import saved
from simclr_jax.runtime.tensorflow import tf

SIZE = 20


def jpeg(height, width, orientation=None, seed=0, form="JPEG"):
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION_TAG] = orientation
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.BICUBIC).save(file, form, quality=92, exif=exif)
    return tf.constant(file.getvalue())


def box_of(*numbers):
    return lambda shape: tf.constant(numbers, tf.int32)


@pytest.mark.parametrize(
    ("boxes", "ratio"),
    [
        ([(0, 0, 40, 39)], 1),
        ([(8, 16, 40, 40)], 2),
        ([(8, 16, 79, 200)], 2),
        ([(8, 16, 80, 200)], 4),
        ([(0, 0, 240, 320)], 8),
        ([(0, 0, 240, 320), (8, 8, 88, 96)], 4),
        ([(0, 0, 240, 320), (8, 8, 39, 96)], 1),
    ],
)
def test_the_ratio_leaves_the_pixels_of_the_view(boxes, ratio):
    image = jpeg(240, 320)
    crops = tf_crops.open_cropped(image, [box_of(*box) for box in boxes], SIZE)
    whole = tf.io.decode_jpeg(image, channels=3, ratio=ratio).numpy()
    assert len(crops) == len(boxes)
    for crop, (top, left, height, width) in zip(crops, boxes, strict=True):
        bottom, right = (top + height + ratio // 2) // ratio, (left + width + ratio // 2) // ratio
        top, left = (top + ratio // 2) // ratio, (left + ratio // 2) // ratio
        assert min(bottom - top, right - left) >= min(SIZE, height, width)
        expected = whole[top:bottom, left:right]
        assert crop.shape == expected.shape
        assert np.abs(crop.numpy().astype(int) - expected)[:, :-1].max() <= 3, "colours at the edge of what is decoded"


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("shape", [(241, 323), (320, 240)])
def test_reduced_crops_show_what_full_ones_show(orientation, shape):
    image = jpeg(*shape, orientation)
    boxes = [box_of(3, 5, 170, 180), box_of(60, 50, 175, 165)]
    full, reduced = tf_crops.open_cropped(image, boxes), tf_crops.open_cropped(image, boxes, SIZE)
    for one, other in zip(full, reduced, strict=True):
        assert other.shape[0] in (one.shape[0] // 8, one.shape[0] // 8 + 1)
        one, other = (tf_crops.resize(pixels, SIZE).numpy() for pixels in (one, other))
        # Where an image is turned and its sides are no multiples of the ratio, crops are off by up to a reduced pixel.
        assert np.abs(one - other).mean() < (0.08 if orientation in (3, 6, 8) and shape[0] % 8 else 0.03)
    (single,) = tf_crops.open_cropped(image, boxes[:1], SIZE)
    assert np.abs(single.numpy().astype(int) - reduced[0])[:, :-1].max() <= 4
    np.testing.assert_array_equal(
        image_files.upright_jpeg_shape(image), image_files.decode_with_pillow(image.numpy()).shape
    )


@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_files_of_the_size_of_imagenet_are_the_same_to_the_bit(orientation, form):
    augment = config_lib.pretrain().augment
    image = jpeg(375, 500, orientation, form=form)
    for position in range(4):
        for views in (1, 2):
            given = (image, augment, 3, tf.constant(position, tf.int64), views)
            for one, other in zip(tf_crops.random_crops(*given), tf_crops.random_crops(*given, 224), strict=True):
                np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(tf_crops.central_crop(image, 0.875), tf_crops.central_crop(image, 0.875, 224))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_large_files_of_other_formats_are_the_same(form):
    image = jpeg(240, 320, form=form)
    np.testing.assert_array_equal(tf_crops.central_crop(image, 1.0), tf_crops.central_crop(image, 1.0, SIZE))


def test_a_large_file_without_its_end_is_unreadable_or_read():
    cut = tf.constant(jpeg(240, 320).numpy()[:-40])
    with pytest.raises(tf.errors.OpError):
        tf_crops.central_crop(cut, 1.0, SIZE)
    completed = image_files.Decoding(truncated_jpeg="read").completed(cut)
    assert tf_crops.central_crop(completed, 1.0, SIZE).shape == (30, 30, 3)


def test_runs_that_began_without_it_go_on_without_it():
    new = config_lib.pretrain()
    assert image_files.Decoding.of(new.data).reduced_decode
    saved.settle_decoding(new, None)
    assert new.data.reduced_decode is True
    fields = new.to_dict()
    del fields["data"]["reduced_decode"]
    old = saved.from_dict(fields, config_lib.pretrain())
    assert old.data.reduced_decode is False
    continued = config_lib.pretrain()
    saved.settle_decoding(continued, old)
    assert continued.data.reduced_decode is False
    assert saved.differences(continued, old) == []
    assert any("reduced_decode" in line for line in saved.differences(new, old))
    for pretrained, expected in ((old, False), (new, True)):
        probe = config_lib.linear_probe()
        probe.data.update(source="folder", root="other")
        saved.inherit(probe, pretrained)
        assert probe.data.reduced_decode is expected
    assert config_lib.load(f"{REPOSITORY}/configs/imagenet.py").data.reduced_decode is False
