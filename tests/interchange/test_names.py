"""Every layout names every tensor of every network, and the names alone tell which network it is."""

import dataclasses

from made_weights import config_for
import numpy as np
import pytest

from simclr_jax.config.choices import WEIGHT_FORMATS
from simclr_jax.errors import UserError
from simclr_jax.interchange import infer
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange import tf2_names
from simclr_jax.interchange import torch_names
from simclr_jax.interchange.layers import Skeleton

OFFICIAL = [*infer.skeletons(0, False, True), *infer.skeletons(3, False, True), *infer.skeletons(1, True, False)]
PYTORCH = [*infer.skeletons(0, False, False, pytorch=True), *infer.skeletons(0, False, True, pytorch=True)]


SMALL = [skeleton for skeleton in (*OFFICIAL[::3], *PYTORCH) if skeleton.depth in (18, 50)]  # the others take long


@pytest.mark.parametrize("skeleton", SMALL, ids=Skeleton.describe)
def test_the_names_are_those_of_the_network(skeleton):
    shapes = infer.network_shapes(config_for(skeleton), 5 if skeleton.classifier else None)
    layouts = (torch_names,) if skeleton in PYTORCH else (tf1_names, tf2_names)
    for layout in layouts:
        names = layout.names(skeleton)
        assert names.keys() == shapes.keys()
        assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("layout", [tf1_names, tf2_names])
@pytest.mark.parametrize("skeleton", OFFICIAL, ids=Skeleton.describe)
def test_a_network_is_found_from_its_names(layout, skeleton):
    names = list(layout.names(skeleton).values())
    assert layout.recognises(names)
    head, linear, classifier = layout.heads(names)
    found = infer.match("x", names, infer.skeletons(head, linear, classifier), layout.names)
    assert found.skeleton == skeleton


def test_what_is_missing_and_left_over_is_named():
    names = set(tf1_names.names(Skeleton(50)).values())
    names = names - {"base_model/conv2d_7/kernel"} | {"base_model/se/kernel"}
    with pytest.raises(
        UserError, match=r"ResNet-50: 1 missing \(base_model/conv2d_7/kernel\), 1 left over \(base_model/se/kernel\)"
    ):
        infer.match("x", names, infer.skeletons(0, False, False), tf1_names.names)


def test_variables_of_a_saved_model_are_numbered_in_the_order_of_creation():
    variables = [
        "resnet/block_group1/residual_block/conv2d_fixed_padding_12/conv2d_12/kernel:0",
        "resnet/conv2d_fixed_padding/conv2d/kernel:0",
        "resnet/block_group1/residual_block/conv2d_fixed_padding_2/conv2d_2/kernel:0",
        "resnet/batch_norm_relu/sync_batch_normalization/gamma:0",
        "resnet/x/batch_norm_relu_3/batch_normalization_3/moving_mean:0",
        "projection_head/nl_1/batch_norm_relu_22/sync_batch_normalization_22/gamma:0",
        "projection_head/nl_1/dense_1/kernel:0",
        "head_supervised/linear_layer/dense_2/bias:0",
        "other/thing:0",
    ]
    assert list(tf2_names.as_tf1(variables).values()) == [
        "base_model/conv2d_2/kernel",
        "base_model/conv2d/kernel",
        "base_model/conv2d_1/kernel",
        "base_model/batch_normalization/gamma",
        "base_model/batch_normalization_1/moving_mean",
        "head_contrastive/nl_1/batch_normalization/gamma",
        "head_contrastive/nl_1/dense/kernel",
        "head_supervised/linear_layer/dense/bias",
        "other/thing:0",
    ]


def test_formats():
    assert set(WEIGHT_FORMATS) == set(torch_names.FORMATS)
    plain = set(torch_names.names(Skeleton(18, stage1_projection=False)).values())

    def below(prefix, *more):
        return {prefix + name for name in plain} | set(more)

    cases = {
        "torchvision": plain | {"fc.weight"},
        "vissl": below("_feature_blocks."),
        "lightly": below("backbone.", "projection_head.layers.0.weight"),
        "solo-learn": below("backbone.", "projector.0.weight", "projector.0.bias", "classifier.weight"),
        "spijkervet": below("encoder.", "projector.0.weight", "projector.2.weight"),
        "sthalles": below("backbone.", "backbone.fc.0.weight", "backbone.fc.2.weight"),
        "bolts": below("encoder.model.", "projection.model.0.weight"),
    }
    for name, names in cases.items():
        assert torch_names.find(names).format.name == name
    assert torch_names.find(below("encoder.", "projector.0.bias", "classifier.weight")).format.name == "solo-learn"
    assert torch_names.find(below("what.")) is None
    sequential = dataclasses.replace(torch_names.find(cases["lightly"]), sequential=True)
    names = torch_names.names(Skeleton(18, stage1_projection=False), sequential)
    assert names["encoder/stem_conv/kernel"] == "backbone.0.weight"
    assert names["encoder/stage2_block1/shortcut_bn/mean"] == "backbone.5.0.downsample.1.running_mean"
    assert torch_names.find(names.values()) == sequential


def test_transposing_there_and_back():
    for shape in ((3, 3, 4, 5), (4, 5), (5,)):
        tensor = np.random.default_rng(0).normal(size=shape)
        there = torch_names.from_ours(tensor)
        np.testing.assert_array_equal(torch_names.to_ours(there), tensor)
        assert torch_names.shape_of_ours(there.shape) == shape
    assert torch_names.from_ours(np.zeros((3, 7, 4, 5))).shape == (5, 4, 3, 7)
