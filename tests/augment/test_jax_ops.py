"""Augmentation on the device: every operation against TensorFlow's and the reference, draws, no communication."""

import functools
import itertools
import json

from helpers import mesh_of
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.augment import family
from simclr_jax.augment import jax_crops
from simclr_jax.augment import jax_ops
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_ops
from simclr_jax.augment import tf_random
from simclr_jax.runtime import sharding
from simclr_jax.runtime.tensorflow import tf

RNG = np.random.default_rng(0)
# Random, coarse (equal channels), grey, beyond [0, 1], black, partly white.
IMAGES = RNG.uniform(size=(6, 40, 32, 3)).astype(np.float32)
IMAGES[1] = np.round(IMAGES[1] * 3) / 3
IMAGES[2] = IMAGES[2, ..., :1]
IMAGES[3] = IMAGES[3] * 1.2 - 0.1
IMAGES[4] = 0
IMAGES[5, ::2] = 1

# The operations must equal these. (test_tf_ops.py compares the host's with them.)
TENSORFLOWS = {
    "brightness": lambda image, factor: image * factor,
    "contrast": tf.image.adjust_contrast,
    "saturation": tf.image.adjust_saturation,
    "hue": tf.image.adjust_hue,
}
OPS = tuple(TENSORFLOWS)
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def each(op, images, *parameters):
    """A TensorFlow op of one image, for every image with its own parameters."""
    return np.stack([op(tf.constant(image), *own).numpy() for image, *own in zip(images, *parameters, strict=True)])


# --- Operations ----------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_every_op_equals_the_reference(reference):
    vectors = reference("augment_ops")
    names = {"brightness_v2": "brightness"} | {op: op for op in OPS[1:]}
    image = jnp.asarray(vectors["im"][None])
    checked = 0
    for key in vectors:
        _, op, *parameters = (*key.split("/"), "")
        if op in names:
            result = getattr(jax_ops, names[op])(image, jnp.asarray([float(parameters[0])], jnp.float32))
        elif op == "grayscale":
            result = jax_ops.grayscale(image)
        elif op == "blur":
            kernel = 2 * (int(parameters[0].removeprefix("ks")) // 2) + 1
            sigma = jnp.asarray([float(parameters[1].removeprefix("sigma"))], jnp.float32)
            result = jax_ops.gaussian_blur(image, kernel, sigma)
        else:
            continue
        np.testing.assert_allclose(result[0], vectors[key], atol=2e-6, err_msg=key)
        checked += 1
    assert checked == 5 * 3 + 6 + 1 + 8


@pytest.mark.parametrize("op", OPS)
def test_colour_ops_equal_tensorflows(op):
    function = jax.jit(getattr(jax_ops, op))
    low, high = (-1.0, 1.0) if op == "hue" else (0.0, 1.8)
    for parameters in np.linspace(low, high, 24).astype(np.float32).reshape(4, 6):
        expected = each(TENSORFLOWS[op], IMAGES, parameters)
        np.testing.assert_allclose(function(IMAGES, parameters), expected, atol=5e-6)


def test_saturation_of_a_colour_is_at_most_full_and_grey_stays_grey():
    images = np.float32([[[[1, 0.5, 0], [0.8, 0.4, 0.6], [0.3, 0.3, 0.3], [0, 0, 0]]]])
    result = jax.jit(jax_ops.saturation)(images, np.float32([10]))[0, 0]
    np.testing.assert_allclose(result, [[1, 0.5, 0], [0.8, 0, 0.4], [0.3] * 3, [0] * 3], atol=1e-6)


@pytest.mark.parametrize(("op", "nothing"), list(zip(OPS, (1, 1, 1, 0), strict=True)))
def test_the_parameter_that_changes_nothing_changes_nothing(op, nothing):
    images = np.clip(IMAGES, 0, 1)
    result = jax.jit(getattr(jax_ops, op))(images, np.full(len(images), nothing, np.float32))
    np.testing.assert_allclose(result, images, atol=1e-6)


def test_grayscale_flip_and_clip_equal_tensorflows():
    gray = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(IMAGES))
    np.testing.assert_allclose(jax_ops.grayscale(jnp.asarray(IMAGES)), gray, atol=1e-6)
    np.testing.assert_array_equal(jax_ops.flip(jnp.asarray(IMAGES)), tf.image.flip_left_right(IMAGES))
    np.testing.assert_array_equal(jax_ops.clip(jnp.asarray(IMAGES)), tf.clip_by_value(IMAGES, 0, 1))


def convolved(image, kernel_size, sigma):
    """A blur as two depthwise convolutions of one image."""
    offsets = np.arange(kernel_size, dtype=np.float32) - kernel_size // 2
    kernel = tf.exp(-(offsets**2) / (2 * sigma**2))
    kernel = tf.tile((kernel / tf.reduce_sum(kernel))[:, None, None, None], [1, 1, 3, 1])
    image = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(image, tf.transpose(kernel, [1, 0, 2, 3]), [1, 1, 1, 1], "SAME")[0]


@pytest.mark.parametrize("kernel_size", [3, 9, 23])
def test_blur_equals_tensorflows_with_a_sigma_for_each_image(kernel_size):
    sigma = np.float32([0.1, 0.3, 0.7, 1.0, 1.6, 2.0])
    expected = each(lambda image, sigma: convolved(image, kernel_size, sigma), IMAGES, sigma)
    result = jax.jit(jax_ops.gaussian_blur, static_argnums=1)(IMAGES, kernel_size, sigma)
    np.testing.assert_allclose(result, expected, atol=2e-6)


def on_host(op, images, *parameters):
    """An op of the host's family, which takes planes."""
    planes = tf.transpose(tf.constant(images), [0, 3, 1, 2])
    return tf.transpose(op(planes, *parameters), [0, 2, 3, 1])


def test_rotation_sobel_noise_and_cutout_equal_the_hosts():
    square = IMAGES[:, :32]
    turns = np.array([0, 1, 2, 3, 1, 3], np.int32)
    expected = [on_host(tf_ops.rotate, square[i : i + 1], int(turns[i]))[0] for i in range(6)]
    np.testing.assert_array_equal(jax.jit(jax_ops.rotate)(square, turns), expected)
    np.testing.assert_allclose(jax.jit(jax_ops.sobel)(IMAGES), on_host(tf_ops.sobel, IMAGES), atol=1e-6)
    normals = RNG.normal(size=IMAGES.shape).astype(np.float32)
    expected = on_host(lambda planes: tf_ops.noise(planes, 0.2, tf.transpose(normals, [0, 3, 1, 2])), IMAGES)
    np.testing.assert_allclose(jax_ops.noise(jnp.asarray(IMAGES), 0.2, jnp.asarray(normals)), expected, atol=1e-6)
    top, left = np.array([0, 5, 20, 39, 39, 12], np.int32), np.array([0, 31, 9, 31, 0, 16], np.int32)
    expected = on_host(tf_ops.cutout, IMAGES, tf.constant(top), tf.constant(left), 8)
    np.testing.assert_allclose(
        jax_ops.cutout(jnp.asarray(IMAGES), jnp.asarray(top), jnp.asarray(left), 8), expected, atol=1e-6
    )


@pytest.mark.parametrize("off", [(), ("contrast", "hue"), OPS])
def test_jitter_is_tensorflows_ops_in_each_images_order(off):
    fields = config_lib.pretrain().augment
    fields.update(strength=0.5, **dict.fromkeys(off, 0.0))
    orders = np.array(list(itertools.permutations(range(4))), np.float32) / 4
    images = RNG.uniform(-0.1, 1.1, (24, 8, 8, 3)).astype(np.float32)  # as a bicubic resize leaves them
    factors = RNG.uniform(size=(24, 4)).astype(np.float32)
    bounds = np.array([0.4, 0.4, 0.4, 0.1])
    parameters = np.float32([1, 1, 1, 0] - bounds + factors * 2 * bounds)

    def jittered(image, own, order):
        for number in np.argsort(order):
            if OPS[number] not in off:
                image = tf.clip_by_value(TENSORFLOWS[OPS[number]](image, own[number]), 0, 1)
        return image

    draws = np.zeros((24, family.NUM_DRAWS), np.float32)
    (jitter,) = (op for op in family.OPS if op.name == "jitter")
    draws[:, jitter.places["factors"]], draws[:, jitter.places["order"]] = factors, orders
    assert jitter.is_on(fields, 8) == (off != OPS)
    result = jax.jit(lambda draws: jax_ops.jitter(jnp.asarray(images), **jitter.drawn(draws, fields, 8)))(draws)
    np.testing.assert_allclose(result, each(jittered, images, parameters, orders), atol=1e-5)


# --- Crops ---------------------------------------------------------------------------------------------------------


def host_boxes(shape, area, aspect, count):
    def box(position):
        return tf_crops.random_box(tf.constant([*shape, 3]), tf_random.crop_seed(2, position, 0), area, aspect)

    (boxes,) = tf.data.Dataset.range(count).map(box).batch(count).as_numpy_iterator()
    return boxes


def device_boxes(shape, area, aspect, count):
    draws = np.random.default_rng(1).uniform(size=(count, 202)).astype(np.float32)
    return np.asarray(jax.jit(lambda draws: jax_crops.random_boxes(draws, *shape, area, aspect))(draws))


@pytest.mark.parametrize(
    ("shape", "area"),
    [((427, 640), (0.08, 1.0)), ((32, 32), (0.08, 1.0)), ((8, 8), (0.08, 1.0)), ((96, 60), (0.2, 0.5))],
)
def test_crops_are_distributed_as_tensorflows(shape, area):
    aspect = (3 / 4, 4 / 3)
    host, device = host_boxes(shape, area, aspect, 4000), device_boxes(shape, area, aspect, 4000)
    assert device.dtype == np.int32
    assert np.all(device[:, :2] >= 0)
    assert np.all(device[:, :2] + device[:, 2:] <= shape)

    def facts(boxes):
        top, left, tall, wide = boxes.T.astype(float)
        return {"area": tall * wide / np.prod(shape), "aspect": wide / tall, "top": top, "left": left}

    for name, expected in facts(host).items():
        actual = facts(device)[name]
        error = expected.std() * np.sqrt(2 / len(expected))
        assert abs(actual.mean() - expected.mean()) < 4 * error, name
        assert actual.std() == pytest.approx(expected.std(), rel=0.06), name
        assert stats.ks_2samp(actual, expected).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("shape", "area", "aspect"),
    [
        ((2, 3), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((1, 1), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((7, 4), (0.6, 1.0), (0.5, 2.0)),  # only few of a hundred attempts fit
        ((50, 50), (0.9, 1.0), (3.0, 4.0)),  # none does, so all are the whole image
    ],
)
def test_small_and_awkward_images_have_the_crops_of_tensorflow(shape, area, aspect):
    host, device = host_boxes(shape, area, aspect, 3000), device_boxes(shape, area, aspect, 3000)
    kinds, rows = np.unique(np.concatenate([host, device]), axis=0, return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=len(kinds)) for part in np.split(rows.reshape(-1), 2)])
    assert counts.min() > 0 or counts.sum(axis=0)[counts.min(axis=0) == 0].max() < 10
    frequent = counts[:, counts.sum(axis=0) >= 10]
    if frequent.shape[1] > 1:
        assert stats.chi2_contingency(frequent).pvalue > 1e-3
    if shape == (50, 50):
        np.testing.assert_array_equal(kinds, [[0, 0, 50, 50]])


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (8, 8, 16), (45, 60, 32), (96, 96, 64)])
def test_crop_and_resize_equals_tensorflows(height, width, size):
    images = RNG.integers(0, 256, (30, height, width, 3), dtype=np.uint8)
    top, left = RNG.integers(0, height, 30), RNG.integers(0, width, 30)
    tall, wide = RNG.integers(1, height - top + 1), RNG.integers(1, width - left + 1)
    boxes = np.stack([top, left, tall, wide], axis=1).astype(np.int32)
    boxes[0] = 0, 0, height, width
    expected = each(
        lambda image, box: tf_crops.resize(image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]], size),
        images,
        boxes,
    )
    result = jax.jit(jax_crops.crop_and_resize, static_argnums=2)(images, boxes, size)
    np.testing.assert_allclose(result, expected, atol=5e-6)
    assert result.max() > 1, "cubic interpolation overshoots"


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (9, 5, 5), (9, 6, 12)])
def test_without_a_crop_a_view_is_the_central_square_as_on_the_host(height, width, size):
    images = RNG.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    fields = config(crop=False)
    top, left, side, _ = tf_crops.center_box(tf.constant([height, width, 3]), 1.0).numpy()
    expected = each(lambda image: tf_crops.resize(image[top : top + side, left : left + side], size), images)
    views = jax_crops.resized_crops(jnp.asarray(images), jnp.arange(3), 0, fields, size, 2)
    assert views.shape == (3, 2, size, size, 3)
    for view in range(2):
        np.testing.assert_allclose(views[:, view], expected, atol=2e-6)


# --- The family ----------------------------------------------------------------------------------------------------


def config(**changes):
    """Every op off but those in `changes`."""
    off = {"crop": False, "flip_prob": 0.0, "jitter_prob": 0.0, "grayscale_prob": 0.0, "blur_prob": 0.0}
    fields = config_lib.pretrain().augment
    fields.update(off | changes)
    return fields


PIXELS = RNG.integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
POSITIONS = np.arange(24, dtype=np.uint32) + 2**31


@functools.cache
def compiled(text, size, num_views):
    fields = ConfigDict(json.loads(text))
    return jax.jit(
        lambda images, positions, seed: jax_ops.views_from_images(images, positions, seed, fields, size, num_views)
    )


def whole(fields, images=PIXELS, positions=POSITIONS, seed=0, num_views=2):
    return np.asarray(compiled(fields.to_json(), 20, num_views)(images, positions, seed))


def repeated(image, count):
    return np.tile(image[None], (count, 1, 1, 1))


def test_with_everything_off_a_view_is_the_image():
    views = whole(config())
    assert views.dtype == np.float32
    for view in range(2):
        np.testing.assert_allclose(views[:, view], PIXELS.astype(np.float32) / 255, rtol=2e-7)


def test_the_draws_have_their_distributions_and_are_independent():
    draws = np.asarray(jax_crops.uniforms(0, jnp.arange(2000), 2, jax_crops.REST, 13)).reshape(4000, 13)
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    both = np.concatenate(
        [draws, draws.reshape(2000, 2, 13)[:, ::-1].reshape(4000, 13)], axis=1
    )  # and the other view's
    correlations = np.corrcoef(both.T) - np.eye(26)
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
    along = [np.corrcoef(column[2:], column[:-2])[0, 1] for column in draws.T]
    assert np.abs(along).max() < 5 / np.sqrt(4000)


def test_probabilities_and_ranges_are_kept():
    count = 1000
    positions = np.arange(count, dtype=np.uint32)
    image = np.zeros((20, 20, 3), np.uint8)
    image[10, 5] = 200, 100, 50
    images = repeated(image, count)
    original = image.astype(np.float32) / 255

    def changed(fields):
        views = whole(fields, images, positions, num_views=1)[:, 0]
        return views, np.abs(views - original).max(axis=(1, 2, 3)) > 1e-6

    for fields in (config(flip_prob=0.3), config(jitter_prob=0.3), config(grayscale_prob=0.3), config(blur_prob=0.3)):
        assert abs(changed(fields)[1].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / count)

    alone = {"strength": 0.5, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    views, _ = changed(config(jitter_prob=1.0, brightness=0.4, **alone))
    factors = views[:, 10, 5, 2] * 255 / 50
    assert stats.kstest(factors, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3

    views, _ = changed(config(blur_prob=1.0, blur_sigma=(0.5, 2.0)))
    peak = np.sqrt(views[:, 10, 5, 0] * 255 / 200)  # of a kernel (e, 1, e) / (1 + 2 e)
    sigma = np.sqrt(-0.5 / np.log((1 / peak - 1) / 2))
    assert stats.kstest(sigma, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


def test_turning_one_operation_off_changes_no_other_draw():
    both, jittered = whole(config(flip_prob=0.5, jitter_prob=1.0)), whole(config(jitter_prob=1.0))
    flip = whole(config(flip_prob=0.5))
    flipped = np.abs(flip - PIXELS[:, None, :, ::-1] / np.float32(255)).max(axis=(2, 3, 4)) < 1e-6
    assert 10 < flipped.sum() < 38
    expected = np.where(flipped[..., None, None, None], jittered[..., ::-1, :], jittered)
    np.testing.assert_allclose(both, expected, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"rotate_prob": 0.6, "sobel_prob": 0.3, "cutout_prob": 0.5}])
def test_a_view_is_the_hosts_for_the_same_draws(more):
    fields = config_lib.pretrain().augment
    fields.update(more)
    crops = RNG.uniform(-0.05, 1.05, (16, 2, 32, 32, 3)).astype(np.float32)
    positions = jnp.arange(16)
    draws = jax_crops.uniforms(3, positions, 2, jax_crops.REST, family.NUM_DRAWS).reshape(32, -1)
    expected = tf_ops.random_views(tf.constant(crops.reshape(32, 32, 32, 3)), tf.constant(draws), fields)
    result = jax.jit(lambda crops: jax_ops.augment_crops(crops, positions, 3, fields))(crops)
    # The host's are rounded to uint8.
    np.testing.assert_allclose(result.reshape(expected.shape) * 255, expected, atol=0.5 + 5e-3)


@pytest.mark.slow
def test_views_depend_on_seed_position_and_view_alone():
    fields = config_lib.pretrain().augment
    all_views = whole(fields)
    assert all_views.dtype == np.float32
    assert 0 <= all_views.min() < all_views.max() <= 1
    # In another batch, in another order, with one more view.
    rows = np.array([17, 3, 8])
    few = functools.partial(whole, fields, num_views=3)
    np.testing.assert_allclose(few(PIXELS[rows], POSITIONS[rows])[:, :2], all_views[rows], atol=1e-5)
    same = repeated(PIXELS[0], 3)
    views = np.concatenate([few(same, POSITIONS[:3], seed=seed).reshape(9, -1) for seed in (0, 1)])
    assert len(np.unique(views, axis=0)) == 18


def test_noise_is_normal_and_each_views_own():
    gray = np.full((3, 20, 20, 3), 128, np.uint8)
    views = whole(config(noise_prob=1.0, noise_std=0.1), gray, np.arange(3, dtype=np.uint32)).reshape(6, -1)
    noise = (views - np.float32(128 / 255)) / 0.1
    for one in noise:
        assert stats.kstest(one, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise) - np.eye(6)).max() < 0.15


def test_with_one_branch_the_second_view_is_the_shared_crop():
    fields = config(one_branch=True)
    views = whole(fields)
    np.testing.assert_array_equal(views[:, 0], views[:, 1])
    assert len(np.unique(views[:, 0].reshape(24, -1), axis=0)) == 24
    fields.update(jitter_prob=1.0, flip_prob=1.0, rotate_prob=1.0, cutout_prob=1.0)
    changed = whole(fields)
    np.testing.assert_array_equal(changed[:, 1], views[:, 1])
    assert np.all(np.abs(changed[:, 0] - views[:, 0]).max(axis=(1, 2, 3)) > 0.01)

    # Where both crop, the first view's box lies in the other's: a ramp shows where its pixels come from.
    ramp = np.zeros((200, 20, 20, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(0, 240, 12)[:, None], np.arange(0, 240, 12)
    again = whole(config(one_branch=True, crop=True), ramp, np.arange(200, dtype=np.uint32))
    inner, outer = again[:, 0, ..., :2], again[:, 1, ..., :2]
    assert np.all(inner.min(axis=(1, 2)) > outer.min(axis=(1, 2)) - 0.03)
    assert np.all(inner.max(axis=(1, 2)) < outer.max(axis=(1, 2)) + 0.03)
    assert np.mean(np.ptp(inner, axis=(1, 2)) < 0.9 * np.ptp(outer, axis=(1, 2))) > 0.5


def test_crops_from_the_host_get_the_same_second_half():
    fields = config_lib.pretrain().augment
    fields.crop = False
    crops = np.repeat(PIXELS[:, None], 2, axis=1)
    result = jax.jit(lambda crops, positions: jax_ops.random_views(crops, positions, 0, fields))(crops, POSITIONS)
    np.testing.assert_allclose(result, whole(fields), atol=1e-5)


def test_a_supervised_config_has_crop_and_flip_alone():
    fields = ConfigDict(config_lib.linear_probe().augment)
    views = whole(fields, num_views=1)
    full = config_lib.pretrain().augment
    full.update(jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0)
    np.testing.assert_allclose(views, whole(full, num_views=1), atol=1e-5)


def test_what_is_off_is_not_computed():
    def text(fields):
        return str(
            jax.make_jaxpr(lambda images: jax_ops.views_from_images(images, jnp.asarray(POSITIONS), 0, fields, 20, 2))(
                PIXELS
            )
        )

    assert "dot_general" not in text(config(jitter_prob=0.8, grayscale_prob=0.2, flip_prob=0.5))
    assert "dot_general" in text(config(blur_prob=0.5))
    assert " rem " not in text(config(jitter_prob=0.8, hue=0.0))
    assert "while" not in text(config_lib.pretrain().augment), "a loop over all images would wait for all devices"


@pytest.mark.parametrize("fsdp", [1, 2])
def test_devices_make_their_own_views_without_communication(fsdp):
    fields = config_lib.pretrain().augment
    split = sharding.batch_sharded(mesh_of(8, fsdp))
    run = jax.jit(lambda images, positions: jax_ops.views_from_images(images, positions, 0, fields, 20, 2))
    arguments = jax.device_put((PIXELS, POSITIONS), split)
    compiled = run.lower(*arguments).compile()
    assert not any(f"{name}(" in compiled.as_text() for name in COLLECTIVES)
    views = compiled(*arguments)
    assert {shard.data.shape for shard in views.addressable_shards} == {(3, 2, 20, 20, 3)}
    np.testing.assert_allclose(views, whole(fields), atol=1e-5)
