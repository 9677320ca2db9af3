"""The augmentation family on the host: each operation against the reference, the statistics of the draws, crops."""

import io

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.augment import family
from simclr_jax.augment import image_files
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_ops
from simclr_jax.augment import tf_random
from simclr_jax.runtime.tensorflow import tf

OPS = {
    "contrast": tf_ops.contrast,
    "saturation": tf_ops.saturation,
    "brightness_v2": tf_ops.brightness,
    "hue": tf_ops.hue,
}


def one(op, image, *parameters, **kwargs):
    """An op on a chunk that is one image."""
    planes = tf.transpose(tf.constant(image)[None], [0, 3, 1, 2])
    done = op(planes, *(tf.constant([parameter], tf.float32) for parameter in parameters), **kwargs)
    return tf.transpose(done, [0, 2, 3, 1])[0]


@pytest.mark.shared_data
def test_every_op_equals_the_reference(reference):
    vectors = reference("augment_ops")
    image = vectors["im"]
    checked = 0
    for key in vectors:
        _, op, *parameters = (*key.split("/"), "")
        if op in OPS:
            result = one(OPS[op], image, float(parameters[0]))
        elif op == "grayscale":
            result = one(tf_ops.grayscale, image)
        elif op == "blur":
            # "ks22" is the tenth of a side of 220: the kernel is 23 wide.
            kernel = 2 * (int(parameters[0].removeprefix("ks")) // 2) + 1
            result = one(tf_ops.gaussian_blur, image, float(parameters[1].removeprefix("sigma")), kernel_size=kernel)
        else:
            continue
        np.testing.assert_allclose(result, vectors[key], atol=1e-6, err_msg=key)
        checked += 1
    assert checked == 5 * 3 + 6 + 1 + 8


def boxes(shape, area, aspect=(3 / 4, 4 / 3), count=500):
    box = tf.function(
        lambda position: tf_crops.random_box(
            tf.constant([*shape, 3]), tf_random.crop_seed(0, position, 0), area, aspect
        )
    )
    return np.array([box(tf.constant(position, tf.int64)).numpy() for position in range(count)])


@pytest.mark.parametrize(
    ("shape", "mean", "std"), [((427, 640), 0.356, 0.180), ((32, 32), 0.434, 0.231), ((224, 224), 0.423, 0.225)]
)
def test_crop_areas_are_distributed_as_the_references(shape, mean, std):
    crops = boxes(shape, (0.08, 1.0), count=1000)
    areas = crops[:, 2] * crops[:, 3] / (shape[0] * shape[1])
    standard_error = std / np.sqrt(len(areas))
    assert abs(areas.mean() - mean) < 4 * standard_error
    assert areas.std() == pytest.approx(std, rel=0.1)
    assert areas.min() > 0.1 - 0.02, "no crop is below a tenth, but for rounding to pixels"
    assert np.all(crops[:, :2] >= 0)
    assert np.all(crops[:, :2] + crops[:, 2:] <= shape)


def test_crops_keep_to_a_configured_area():
    crops = boxes((100, 100), (0.5, 0.6), count=200)
    areas = crops[:, 2] * crops[:, 3] / 1e4
    assert areas.min() > 0.48
    assert areas.max() < 0.62


def test_the_central_box_is_square_and_central():
    np.testing.assert_array_equal(tf_crops.center_box(tf.constant([100, 200, 3]), 0.875), [6, 56, 88, 88])
    np.testing.assert_array_equal(tf_crops.center_box(tf.constant([9, 5, 3]), 1.0), [2, 0, 5, 5])


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats_open_as_three_channels_and_crop_as_their_pixels(format, mode):
    pixels = np.tile(np.arange(40, dtype=np.uint8)[:, None, None] * 6, (1, 30, 3))
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **({"lossless": True} if format == "webp" else {}))
    encoded = tf.constant(file.getvalue())
    whole = image_files.decode(encoded)
    assert whole.shape == (40, 30, 3)
    assert whole.dtype == tf.uint8
    box = lambda shape: tf.constant([8, 4, 16, 12])  # noqa: E731
    for boxes in ([box], [box, box]):
        for crop in tf_crops.open_cropped(encoded, boxes):
            np.testing.assert_allclose(crop, whole[8:24, 4:16], atol=3 if format == "jpeg" else 0)
            np.testing.assert_allclose(crop, pixels[8:24, 4:16], atol=12 if format == "gif" else 4)


def config(**changes):
    """Every op off but those in `changes`."""
    off = {"crop": False, "flip_prob": 0.0, "jitter_prob": 0.0, "grayscale_prob": 0.0, "blur_prob": 0.0}
    fields = config_lib.pretrain().augment
    fields.update(off | changes)
    return fields


IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def view(fields, position=0, seed=0, size=32, image=IMAGE):
    position = tf.constant(position, tf.int64)
    (crop,) = tf_crops.random_crops(tf.constant(image), fields, seed, position, 1)
    draws = tf_random.uniforms(seed, position[None], 0, family.NUM_DRAWS)
    return tf_ops.random_views(tf_crops.resize(crop, size)[None], draws, fields)[0].numpy()


def test_with_everything_off_a_view_is_the_image():
    np.testing.assert_array_equal(view(config()), IMAGE)


def test_rounding_loses_at_most_half_a_level_and_clips():
    values = np.array([-0.1, 0.0, 0.5 / 255 + 1e-4, 0.3, 1.0, 1.7], np.float32)
    np.testing.assert_array_equal(tf_ops.to_uint8(tf.constant(values)), [0, 0, 1, 76, 255, 255])


def test_flip_and_grayscale_alone():
    np.testing.assert_array_equal(view(config(flip_prob=1.0)), IMAGE[:, ::-1])
    gray = view(config(grayscale_prob=1.0))
    assert np.all(gray == gray[..., :1])
    luma = IMAGE @ [0.2989, 0.587, 0.114]
    np.testing.assert_allclose(gray[..., 0], luma, atol=1)


@pytest.mark.slow
def test_probabilities_are_kept():
    flipped = [not np.array_equal(view(config(flip_prob=0.3), position), IMAGE) for position in range(300)]
    assert abs(np.mean(flipped) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 300)


@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_op_alone_is_that_op_within_its_range(op):
    bounds = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0) | {op: 0.4}
    result = view(config(jitter_prob=1.0, strength=0.5, **bounds), position=5).astype(int)
    function = getattr(tf_ops, op)
    low, high = (-0.2, 0.2) if op == "hue" else (0.8, 1.2)
    candidates = np.linspace(low, high, 81, dtype=np.float32)
    errors = [
        np.abs(tf_ops.to_uint8(one(function, IMAGE / np.float32(255), value)).numpy().astype(int) - result).mean()
        for value in candidates
    ]
    assert min(errors) < 1.0
    assert max(errors) > 2 * min(errors) + 0.5


def test_jitter_order_is_random_and_clips_after_each_op():
    fields = config(jitter_prob=1.0)
    image = tf.constant(np.random.default_rng(1).uniform(size=(4, 4, 3)).astype(np.float32))
    factors = tf.fill([4, 4], 0.9)

    def apply(order):
        functions = [
            lambda x: x * (0.2 + 0.9 * 1.6),
            lambda x: tf.image.adjust_contrast(x, 0.2 + 0.9 * 1.6),
            lambda x: tf.image.adjust_saturation(x, 0.2 + 0.9 * 1.6),
            lambda x: tf.image.adjust_hue(x, 0.8 * 0.2),
        ]
        result = image
        for number in order:
            result = np.clip(functions[number](result), 0, 1)
        return result

    orders = [[0.1, 0.2, 0.3, 0.4], [0.9, 0.1, 0.5, 0.2], [0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.1, 0.2]]
    jittered = [True, True, True, False]
    planes = tf.transpose(tf.stack([image] * 4), [0, 3, 1, 2])
    draws = np.zeros((4, family.NUM_DRAWS), np.float32)
    (jitter,) = (op for op in family.OPS if op.name == "jitter")
    draws[:, jitter.places["factors"]], draws[:, jitter.places["order"]] = factors, orders
    drawn = jitter.drawn(tf.constant(draws), fields, 4)
    results = tf_ops._apply_chosen(planes, tf.constant(jittered), tf_ops.jitter, drawn, {})
    results = tf.transpose(results, [0, 2, 3, 1])
    for numbers, result in zip(orders[:3], results, strict=False):
        np.testing.assert_allclose(result, apply(np.argsort(numbers)), atol=1e-5)
    np.testing.assert_array_equal(results[3], image)


def test_ops_in_hsv_are_tensorflows_on_every_colour():
    """Also of greys, of pure colours, and a little outside [0, 1], where bicubic resizing may lead."""
    corners = np.stack(np.meshgrid(*[[-0.1, 0.0, 0.3, 0.5, 1.0, 1.2]] * 3), axis=-1).reshape(1, 12, 18, 3)
    colours = corners[0].astype(np.float32)
    for parameter in (0.0, 0.3, 1.0, 1.8):
        ours = one(tf_ops.saturation, colours, parameter)
        np.testing.assert_allclose(ours, tf.image.adjust_saturation(colours, parameter), atol=2e-6)
    for parameter in (-0.2, 0.0, 0.1, 0.5):
        ours = one(tf_ops.hue, colours, parameter)
        np.testing.assert_allclose(ours, tf.image.adjust_hue(colours, parameter), atol=2e-6)


@pytest.mark.slow
def test_rotations_are_by_quarter_turns_anticlockwise_and_equally_frequent():
    planes = tf.transpose(tf.constant(IMAGE)[None], [0, 3, 1, 2])
    for turns in range(4):
        rotated = tf.transpose(tf_ops.rotate(planes, turns), [0, 2, 3, 1])[0]
        np.testing.assert_array_equal(rotated, np.rot90(IMAGE, turns))
    views = [view(config(rotate_prob=1.0), position) for position in range(200)]
    counts = [sum(np.array_equal(one, np.rot90(IMAGE, turns)) for one in views) for turns in range(4)]
    assert sum(counts) == 200
    assert min(counts) > 25


def test_sobel_is_the_size_of_scipys_gradients():
    image = IMAGE / np.float32(255)
    channels = np.moveaxis(image, -1, 0)
    edges = [np.hypot(*(ndimage.sobel(channel, axis, mode="mirror") for axis in (0, 1))) / 4 for channel in channels]
    expected = np.stack(edges, axis=-1)
    np.testing.assert_allclose(one(tf_ops.sobel, image), expected, atol=1e-6)
    step = np.zeros((8, 8, 3), np.float32)
    step[:, 4:] = 1
    np.testing.assert_allclose(one(tf_ops.sobel, step)[:, 3:5], 1, atol=1e-6)
    expected = np.clip(expected, 0, 1) * 255
    np.testing.assert_allclose(view(config(sobel_prob=1.0)), expected, atol=0.51)


def test_noise_is_normal_and_each_views_own():
    gray = np.full((32, 32, 3), 128, np.uint8)
    views = [view(config(noise_prob=1.0, noise_std=0.1), position, image=gray) for position in range(3)]
    rounding = np.random.default_rng(0).uniform(-0.5, 0.5, gray.shape)
    for one_view in views:
        noise = (one_view - 128.0 + rounding) / 255
        assert stats.kstest(noise.reshape(-1) / 0.1, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(noise[:, :-1].reshape(-1), noise[:, 1:].reshape(-1))[0, 1]) < 0.08
    flat = [one_view.reshape(-1).astype(float) for one_view in views]
    assert np.abs(np.corrcoef(flat) - np.eye(3)).max() < 0.08


def test_cutout_is_a_grey_square_somewhere():
    image = np.zeros((32, 32, 3), np.uint8)
    touched = np.zeros((32, 32))
    for position in range(100):
        cut = view(config(cutout_prob=1.0, cutout_side=0.25), position, image=image)
        assert set(np.unique(cut)) <= {0, 128}
        rows, columns = np.nonzero(cut[..., 0])
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 4 <= np.ptp(rows) + 1 <= 8
        touched += cut[..., 0] > 0
    assert np.all(touched.reshape(4, 8, 4, 8).sum(axis=(1, 3)) > 0)
    planes = tf.zeros([1, 3, 10, 10])
    cut = tf_ops.cutout(planes, tf.constant([1]), tf.constant([5]), 3)[0, 0].numpy()
    expected = np.zeros((10, 10))
    expected[0:4, 2:8] = 0.5
    np.testing.assert_array_equal(cut, expected)


def test_with_one_branch_the_second_view_is_the_shared_crop():
    image = np.random.default_rng(3).integers(0, 255, (60, 80, 3), dtype=np.uint8)

    def crops(fields, position):
        return tf_crops.random_crops(tf.constant(image), fields, 0, tf.constant(position, tf.int64), 2)

    for position in range(20):
        first, second = crops(config(one_branch=True), position)
        np.testing.assert_array_equal(first, second)
        first, same = crops(config(one_branch=True, crop=True), position)
        np.testing.assert_array_equal(second, same)
        assert first.shape[0] <= second.shape[0]
        windows = np.lib.stride_tricks.sliding_window_view(second[..., 0].numpy(), first.shape[:2])
        assert np.any(np.all(windows == first[..., 0].numpy(), axis=(2, 3))), "the first is a part of the second"


def test_turning_one_operation_off_changes_no_other_draw():
    with_flip = view(config(flip_prob=0.5, jitter_prob=1.0), position=11)
    without = view(config(jitter_prob=1.0), position=11)
    assert any(np.array_equal(with_flip, candidate) for candidate in (without, without[:, ::-1]))


@pytest.mark.parametrize("op", family.OPS, ids=lambda op: op.name)
def test_an_operation_that_no_image_is_chosen_for_changes_nothing(op):
    fields = config(**{op.prob_field: 0.01})
    crops = tf.constant(np.random.default_rng(4).uniform(size=(3, 32, 32, 3)).astype(np.float32))
    draws = tf.fill([3, family.NUM_DRAWS], 0.5)
    np.testing.assert_array_equal(tf_ops.random_views(crops, draws, fields), tf_ops.to_uint8(crops))


def test_blur_is_drawn_for_each_image():
    image = np.zeros((40, 40, 3), np.uint8)
    image[20, 20] = 255
    peaks = {int(view(config(blur_prob=1.0), position, size=40, image=image)[20, 20, 0]) for position in range(20)}
    assert len(peaks) > 10


def test_views_depend_on_seed_position_and_view_alone():
    fields = config_lib.pretrain().augment
    np.testing.assert_array_equal(view(fields, 3), view(fields, 3))
    assert not np.array_equal(view(fields, 3), view(fields, 4))
    assert not np.array_equal(view(fields, 3), view(fields, 3, seed=1))


@pytest.mark.parametrize("number", [0, 1, 6])
def test_large_images_go_through_the_operations_one_at_a_time(monkeypatch, number):
    fields = config(**{op.prob_field: 0.7 for op in family.OPS})
    side = tf_ops.LARGE_SIDE
    crops = tf.constant(np.random.default_rng(0).uniform(size=(number, side, side, 3)).astype(np.float32))
    draws = tf_random.uniforms(0, tf.range(number), 0, family.NUM_DRAWS)

    def views():
        shapes = [tf.TensorSpec([None, *crops.shape[1:]]), tf.TensorSpec([None, family.NUM_DRAWS])]
        traced = tf.function(
            lambda *args: tf_ops.random_views(*args, fields), shapes, autograph=False
        )  # as in a pipeline
        return traced(crops, draws).numpy()

    alone = views()
    assert alone.shape == crops.shape
    monkeypatch.setattr(tf_ops, "LARGE_SIDE", side + 1)
    together = views()
    # The mean that contrast needs may be added up in another order.
    np.testing.assert_allclose(alone.astype(int), together.astype(int), atol=1)
    assert np.sum(alone != together) <= 1e-5 * alone.size
