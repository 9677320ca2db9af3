"""BatchNorm equals Flax's, alone and fused with the convolution before it or the pooling after it."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import norm
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.resnet import batch_norm
from simclr_jax.models.resnet import conv

# Flax keeps the statistics in float32 and updates them with float64.
pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")

WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def randomize(bn):
    """Give scales both signs, and offsets and running statistics values that matter."""
    features = bn.scale[...].shape
    bn.scale[...] = random(11, *features)
    if bn.bias is not None:
        bn.bias[...] = random(12, *features)
    bn.mean[...] = random(13, *features).astype(bn.mean.dtype)
    bn.var[...] = (0.5 + random(14, *features) ** 2).astype(bn.var.dtype)
    return bn


def flaxs(bn):
    """Flax's BatchNorm with the same variables."""
    theirs = nnx.BatchNorm(
        bn.num_features, momentum=0.9, epsilon=1e-5, use_bias=bn.bias is not None, use_fast_variance=False,
        rngs=nnx.Rngs(0), **WIDE,
    )  # fmt: skip
    nnx.update(theirs, nnx.state(bn))
    return theirs


def outcome(function, *modules_and_inputs):
    """The value, the gradients for modules and arrays, and the statistics of the modules after the call."""

    def total(*arguments):
        out = function(*arguments)
        return jnp.sum(jnp.sin(3 * out)), out

    numbers = tuple(range(len(modules_and_inputs)))
    grads, out = nnx.jit(nnx.grad(total, argnums=numbers, has_aux=True))(*modules_and_inputs)
    modules = [part for part in modules_and_inputs if isinstance(part, nnx.Module)]
    statistics = [nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)) for module in modules]
    grads = [nnx.to_pure_dict(part) if isinstance(part, nnx.State) else part for part in grads]
    return out, grads, statistics


def assert_same(ours, theirs):
    def close(a, b):
        # Flax keeps running statistics in float32.
        tolerance = 1e-9 if a.dtype == b.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(close, ours, theirs)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flaxs(use_bias, train):
    ours = randomize(batch_norm(5, use_bias=use_bias, rngs=nnx.Rngs(0), **WIDE))
    theirs = flaxs(ours)
    x = 2 + random(1, 6, 4, 3, 5)

    def run(bn, x):
        return bn(x, use_running_average=not train)

    assert_same(outcome(run, ours, x), outcome(run, theirs, x))


@pytest.mark.parametrize("shape", [(8, 5), (8, 1, 1, 5)], ids=["head", "selective kernel"])
def test_pooled_features_are_normalised_without_loss_of_digits(shape):
    """A mean 1,000 times the standard deviation; in one pass the error in float32 would be more than a tenth."""
    x = (1000 + random(3, *shape)).astype(jnp.float32)
    ours = batch_norm(5, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    out = ours(x, use_running_average=False)
    assert out.dtype == jnp.float32
    wide = np.asarray(x, np.float64).reshape(8, 5)
    expected = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(out.reshape(8, 5), expected, atol=1e-4)
    np.testing.assert_allclose(ours.var[...], 0.9 + 0.1 * wide.var(0), rtol=1e-4)


def test_pooled_features_give_flaxs_gradients():
    ours = randomize(batch_norm(5, rngs=nnx.Rngs(0), **WIDE))
    theirs, x = flaxs(ours), 2 + random(1, 6, 1, 1, 5)

    def run(bn, x):
        return bn(x, use_running_average=False)

    assert_same(outcome(run, ours, x), outcome(run, theirs, x))


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("with_shortcut", [True, False])
@pytest.mark.parametrize("features", [16, 6])
def test_a_fused_1x1_convolution_and_batch_norm_equal_the_two_in_sequence(features, with_shortcut, stride, train):
    convolution = conv(4, features, 1, stride, rngs=nnx.Rngs(0), **WIDE)
    ours = randomize(batch_norm(features, rngs=nnx.Rngs(0), **WIDE))
    theirs = flaxs(ours)
    x = 1 + random(1, 5, 6, 4, 4)
    shortcut = random(2, 5, 6 // stride, 4 // stride, features) if with_shortcut else jnp.zeros(())

    def joined(convolution, bn, x, shortcut):
        return norm.conv1x1_bn(convolution, bn, x, shortcut if with_shortcut else None, train=train)

    def separate(convolution, bn, x, shortcut):
        y = bn(convolution(x), use_running_average=not train)
        return nnx.relu(y + shortcut) if with_shortcut else y

    assert_same(outcome(joined, convolution, ours, x, shortcut), outcome(separate, convolution, theirs, x, shortcut))


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_pooling_before_batch_norm_and_relu_equals_pooling_after_them(train):
    encoder = ResNet(18, 0.125, "imagenet", rngs=nnx.Rngs(0), **WIDE)
    encoder.block_names = ()  # the output is the mean of the stem's
    randomize(encoder.stem_bn)
    theirs = flaxs(encoder.stem_bn)
    assert np.any(theirs.scale[...] < 0)
    assert np.any(theirs.scale[...] > 0)
    images = random(1, 3, 24, 20, 3)

    def ours(encoder, images):
        return encoder(images, train=train)

    out, (grads, images_gradient), (statistics,) = outcome(ours, encoder, images)

    def separate(convolution, bn, images):
        x = nnx.relu(bn(convolution(images), use_running_average=not train))
        return jnp.mean(nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME"), axis=(1, 2))

    expected, (conv_gradient, bn_gradient, expected_images_gradient), expected_statistics = outcome(
        separate, encoder.stem_conv, theirs, images
    )
    assert_same(out, expected)
    assert_same(grads["stem_conv"], conv_gradient)
    assert_same(grads["stem_bn"], bn_gradient)
    assert_same(images_gradient, expected_images_gradient)
    if train:
        assert_same(statistics["stem_bn"], expected_statistics[1])
