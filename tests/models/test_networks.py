"""Encoders and heads: the reference's parameter counts, initial values, dtypes, and that frozen means frozen."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.config import choices
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.init_rngs import InitRngs
from simclr_jax.models.networks import Classifier
from simclr_jax.models.resnet import STAGES
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.resnet import batch_norm
from simclr_jax.models.resnet import conv
from simclr_jax.models.selective_kernels import SelectiveKernelConv
from simclr_jax.models.selective_kernels import pool_shortcut


def count(module):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def abstract(make):
    return nnx.eval_shape(lambda: make(InitRngs(0)))


def made(make):
    """One compilation instead of one for each operation."""
    return nnx.jit(lambda: make(InitRngs(0)))()


@pytest.mark.parametrize(
    ("depth", "width", "stem", "expected"),
    [
        (18, 1, "cifar", 11_173_056),  # these three are the reference's own counts
        (50, 1, "imagenet", 23_508_032),
        (50, 2, "imagenet", 93_907_072),
        # torchvision's counts without the classifier, for depths that the paper does not list. As in the reference,
        # ResNet-34 has one more projection here, in its first stage (64 * 64 + 2 * 64).
        (34, 1, "imagenet", 21_284_672 + 4_224),
        (101, 1, "imagenet", 42_500_160),
        (152, 1, "imagenet", 58_143_808),
    ],
)
def test_parameter_counts(depth, width, stem, expected):
    assert count(abstract(lambda rngs: ResNet(depth, width, stem, rngs=rngs))) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("width", "expected"), [(1, 35_215_584), (2, 140_306_048)])  # the reference's own counts
def test_parameter_counts_with_selective_kernels(width, expected):
    assert count(abstract(lambda rngs: ResNet(50, width, sk_ratio=0.0625, rngs=rngs))) == expected


@pytest.mark.slow
def test_selective_kernels_are_a_weighted_mean_of_two_convolutions():
    parts = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    make = {"conv": functools.partial(conv, **parts), "batch_norm": functools.partial(batch_norm, **parts)}
    layer = SelectiveKernelConv(5, 4, 2, 0.0625, **make)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 5))
    out = layer(x, train=False)
    assert out.shape == (3, 4, 4, 4)
    both = nnx.relu(layer.bn(layer.conv(x), use_running_average=True))
    streams = jnp.stack([both[..., :4], both[..., 4:]])
    hidden = streams.sum(0).mean((1, 2), keepdims=True) @ layer.mixing_conv1.kernel[0, 0]
    hidden = nnx.relu(layer.mixing_bn(hidden, use_running_average=True))
    logits = hidden @ layer.mixing_conv2.kernel[0, 0]
    weights = jax.nn.softmax(jnp.stack([logits[..., :4], logits[..., 4:]]), axis=0)
    np.testing.assert_allclose(out, jnp.sum(streams * weights, axis=0), atol=1e-5)
    assert layer.mixing_conv1.kernel.shape[-1] == 32


def test_shortcuts_are_pooled_as_the_reference_pools_them():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    strided = np.asarray(pool_shortcut(x, 2))[0, ..., 0]
    np.testing.assert_allclose(strided[:2, :2], [[3, 5], [13, 15]])
    np.testing.assert_allclose(strided[2], [(20 + 21) / 4, (22 + 23) / 4, 24 / 4])  # the padding is zeros
    same = np.asarray(pool_shortcut(x, 1))[0, ..., 0]
    assert same.shape == (5, 5)
    np.testing.assert_allclose(same[4], [20.5, 21.5, 22.5, 23.5, 24])  # here the padding does not count


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_network_with_selective_kernels_trains(stem, monkeypatch):
    monkeypatch.setitem(STAGES, 14, ((1, 1, 1, 1), True))  # a quarter of ResNet-50
    encoder = made(lambda rngs: ResNet(14, 0.125, stem, sk_ratio=0.0625, rngs=rngs))
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    gradient = nnx.jit(nnx.grad(lambda model, images: jnp.sum(model(images, train=True) ** 2)))
    grads = nnx.to_pure_dict(gradient(encoder, images))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(grads))
    assert bool(jnp.any(grads["stem_conv"]["kernel"] != 0))


def test_every_depth_of_the_config_has_its_stages():
    assert tuple(STAGES) == choices.DEPTHS


@pytest.mark.slow
def test_resnet_200_has_66_blocks():
    assert len(abstract(lambda rngs: ResNet(200, 1, rngs=rngs)).block_names) == 3 + 24 + 36 + 3


@pytest.mark.slow
def test_the_4x_resnet_50_is_the_375_million_of_the_paper():
    encoder = abstract(lambda rngs: ResNet(50, 4, rngs=rngs))
    assert round(count(encoder) / 1e6) == 375
    assert encoder.num_features == 8192


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_the_last_scale_of_every_block_starts_at_zero(depth):
    encoder = made(lambda rngs: ResNet(depth, 0.125, "cifar", rngs=rngs))
    last = "bn2" if depth == 18 else "bn3"
    for name in encoder.block_names:
        block = getattr(encoder, name)
        assert np.all(getattr(block, last).scale[...] == 0)
        assert np.all(block.bn1.scale[...] == 1)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "expected"), [("cifar", 32), ("imagenet", 8)])
def test_stems_stride(stem, expected):
    encoder = made(lambda rngs: ResNet(10, 0.125, stem, rngs=rngs))
    sizes = []
    encoder.stage1_block1.conv1 = lambda x: sizes.append(x.shape[1]) or jnp.zeros(x.shape)
    encoder(jnp.zeros((1, 32, 32, 3)), train=False)
    assert sizes == [expected]


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    encoder = made(lambda rngs: ResNet(10, 0.125, "cifar", dtype=jnp.bfloat16, rngs=rngs))
    head = ProjectionHead(encoder.num_features, dtype=jnp.bfloat16, rngs=nnx.Rngs(1))
    h = nnx.jit(lambda encoder: encoder(jnp.ones((4, 8, 8, 3)), train=True))(encoder)
    z = head(h, train=True)
    assert h.dtype == z.dtype == jnp.float32
    assert encoder.stem_conv(jnp.ones((1, 8, 8, 3))).dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((nnx.state(encoder), nnx.state(head))):
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize(
    ("kind", "layers", "out_dim", "expected"),
    [("none", 2, 128, 0), ("linear", 2, 16, 64 * 16 + 16), ("nonlinear", 3, 16, 2 * (64 * 64 + 128) + 64 * 16 + 16)],
)
def test_head_layers_have_no_bias_and_the_last_batch_norm_no_offset(kind, layers, out_dim, expected):
    head = ProjectionHead(64, kind, layers, out_dim, rngs=nnx.Rngs(0))
    assert count(head) == expected
    assert head(jnp.ones((4, 64)), train=True).shape == (4, head.num_features)
    assert head.num_features == (64 if kind == "none" else out_dim)


def test_a_nonlinear_head_ends_without_relu():
    head = ProjectionHead(8, "nonlinear", 2, 4, rngs=nnx.Rngs(0))
    z = head(jax.random.normal(jax.random.key(0), (64, 8)), train=True)
    np.testing.assert_allclose(np.mean(z, axis=0), 0, atol=1e-5)
    assert np.min(z) < 0


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_means_statistics_too(frozen):
    model = made(lambda rngs: Classifier(ResNet(10, 0.125, "cifar", rngs=rngs), 3, frozen=frozen, rngs=rngs))
    encoder = model.encoder
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(encoder)))
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))

    def loss(model):
        return jnp.sum(model(images, train=True) ** 2)

    grads = nnx.to_pure_dict(nnx.jit(nnx.grad(loss))(model))
    after = nnx.to_pure_dict(nnx.state(encoder))
    same = jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before, after))
    assert all(same) == frozen
    moved = any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads["encoder"]))
    assert moved != frozen
    assert bool(jnp.any(grads["classifier"]["kernel"] != 0))


@pytest.mark.parametrize(("depth", "width", "stem"), [(19, 1, "cifar"), (18, 0.01, "cifar"), (18, 1, "mnist")])
def test_unknown_architectures_are_refused(depth, width, stem):
    with pytest.raises(ValueError, match=r"ResNet (depth 19|width 0.01|stem 'mnist')"):
        ResNet(depth, width, stem, rngs=nnx.Rngs(0))


def test_initial_values_are_those_of_flaxs_own_keys():
    ours, theirs = (
        nnx.jit(lambda rngs=rngs: nnx.state(ResNet(10, 0.125, "cifar", rngs=rngs(3))))()
        for rngs in (InitRngs, nnx.Rngs)
    )
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(ours), nnx.to_pure_dict(theirs))
