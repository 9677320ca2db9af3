"""Configs: the files load and keep to the schema, arguments and mistakes, inheritance, JSON."""

import importlib.util
import json

from helpers import REPOSITORY
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError

SCHEMAS = {
    "digits": config_lib.pretrain,
    "cifar10": config_lib.pretrain,
    "imagenet": config_lib.pretrain,
    "folder": config_lib.pretrain,
    "linear_probe": config_lib.linear_probe,
    "finetune": config_lib.finetune,
    "imagenet_finetune": config_lib.finetune,
    "digits_finetune": config_lib.finetune,
    "knn": config_lib.knn,
    "cifar10_small": config_lib.pretrain,
    "supervised": config_lib.finetune,
    "distill": config_lib.distill,
    "transform_probe": config_lib.transform_probe,
    "transfer": config_lib.transfer,
}


def load(name, arg=None):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg), module.__doc__


def test_every_config_file_is_known_here():
    assert {path.stem for path in (REPOSITORY / "configs").glob("*.py")} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_config_files_keep_to_the_schema_and_name_their_command(name):
    config, text = load(name)
    config_checks.check_fields(config, SCHEMAS[name]())
    config_checks.check_values(config, device_count=8)
    assert "python -m simclr_jax." in text
    again = saved_config.from_dict(json.loads(saved_config.to_json(config)), SCHEMAS[name]())
    assert saved_config.flatten(again) == saved_config.flatten(config)


def test_the_imagenet_config_is_the_papers():
    config, _ = load("imagenet", "depth=50,width=4,epochs=1000")
    assert (config.model.depth, config.model.width, config.model.stem) == (50, 4.0, "imagenet")
    assert (config.batch_size, config.epochs, config.loss.temperature) == (4096, 1000.0, 0.1)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.scaling) == ("lars", 0.3, "linear")
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.trust_coefficient) == (0.9, 1e-6, 0.001)
    assert optimizer.warmup_epochs == 10.0
    augment = config.augment
    assert (augment.strength, augment.blur_prob, augment.grayscale_prob, augment.jitter_prob) == (1.0, 0.5, 0.2, 0.8)
    assert (augment.crop_area, augment.blur_sigma) == ((0.08, 1.0), (0.1, 2.0))


def test_a_learning_rate_that_would_not_be_used_is_refused():
    config, _ = load("finetune", "0.01")
    config.optimizer.learning_rate = 0.5
    with pytest.raises(
        UserError, match=r"learning_rate is 0.5, but config.rates_by_labels=True .*: set --config.learning_rates=0.5"
    ):
        config_checks.check_values(config, device_count=1)
    config.learning_rates = (0.1, 0.2)
    with pytest.raises(
        UserError,
        match=r"but one of config.learning_rates, 0.1, 0.2, is taken: set --config.optimizer.learning_rate=0.1",
    ):
        config_checks.check_values(config, device_count=1)
    config.learning_rates = (0.5,)
    config_checks.check_values(config, device_count=1)


def test_protocols_are_the_papers():
    probe, _ = load("linear_probe", "sgd")
    assert (probe.protocol, probe.batch_size, probe.epochs) == ("sgd", 4096, 90.0)
    assert (probe.optimizer.learning_rate, probe.optimizer.scaling, probe.optimizer.nesterov) == (0.1, "linear", True)
    few, _ = load("imagenet_finetune", "0.01")
    assert (few.label_fraction, few.epochs, few.batch_size, few.optimizer.learning_rate) == (0.01, 60.0, 4096, 0.05)
    more, _ = load("imagenet_finetune", "0.1")
    assert (more.epochs, more.optimizer.warmup_epochs, more.optimizer.weight_decay) == (30.0, 0.0, 0.0)
    assert (more.optimizer.name, more.optimizer.scaling, more.optimizer.nesterov) == ("sgd", "linear", True)
    assert (more.init_classifier, more.freeze_below, more.min_steps) == ("random", 0, 0)
    assert more.learning_rates == ()
    assert load("linear_probe")[0].lbfgs.l2_values == 45
    transfer, _ = load("transfer", "flowers,protocol=finetune")
    assert (transfer.lbfgs.l2_min, transfer.lbfgs.l2_max, transfer.lbfgs.l2_values) == (1e-6, 1e5, 45)
    assert (transfer.steps, transfer.batch_size, transfer.data.val_split) == (20_000, 256, "validation")
    rates, decays = transfer.grid.learning_rates, transfer.grid.weight_decays
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 0.1, 7), rtol=1e-3)
    np.testing.assert_allclose(decays, [0, *np.geomspace(1e-6, 1e-3, 7)], rtol=1e-3)


def test_a_blur_that_would_do_nothing_is_refused():
    config, _ = load("cifar10_small", "size=16")
    config.augment.blur_prob = 0.5
    with pytest.raises(UserError, match=r"blur_prob is 0\.5, but with config\.data\.image_size=16 the kernel"):
        config_checks.check_values(config, 1)
    config.data.image_size = 20
    config_checks.check_values(config, 1)


def test_arguments_are_typed_and_unknown_ones_refused():
    args = config_lib.parse_arg("photos,depth=34,\n    bfloat16=true", root="", depth=50, bfloat16=False)
    assert (args.root, args.depth, args.bfloat16) == ("photos", 34, True)
    with pytest.raises(UserError, match="no argument 'dept' .did you mean 'depth'..; it has depth, root"):
        config_lib.parse_arg("dept=34", root="", depth=50)
    with pytest.raises(UserError, match="depth='big' should be of type int"):
        config_lib.parse_arg("depth=big", depth=50)


def test_invented_fields_and_wrong_types_are_refused():
    config = config_lib.pretrain()
    config.loss.temprature = 0.2
    with pytest.raises(
        UserError, match="config.loss.temprature is not a field that is known .did you mean 'loss.temperature'"
    ):
        config_checks.check_fields(config, config_lib.pretrain())
    config = config_lib.pretrain()
    with config.ignore_type():
        config.batch_size = "many"
    with pytest.raises(UserError, match="config.batch_size is 'many', but should be of type int"):
        config_checks.check_fields(config, config_lib.pretrain())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 100, "batch_size is 100, which 8 devices cannot share equally: take 96 or 104"),
        ("batch_size", 3, "take 8"),
        ("epochs", 0.0, "epochs is 0.0, but must be positive"),
        ("loss.temperature", -1.0, "temperature is -1.0, but must be positive"),
        ("augment.flip_prob", 1.5, "a probability"),
        ("augment.crop_area", (0.5, 0.1), "low <= high"),
        ("augment.hue", 3.0, "in \\[0, 1\\]"),
        ("augment.strength", -0.5, "at least 0"),
        ("head.kind", "mlp", "one of none, linear, nonlinear"),
        ("optimizer.name", "adam", "one of lars, sgd, adamw"),
        ("model.depth", 20, "one of 10, 18, 34, 50"),
        ("model.width", 0.3, "whole number"),
        ("data.source", "s3", "one of tfds, folder, records, digits"),
        ("compute_dtype", "float16", "one of float32, bfloat16"),
        ("checkpoint.keep", 0, "at least 1"),
        ("data.max_bad_fraction", 2.0, "a share"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    config, _ = load("digits")
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        config_checks.check_values(config, device_count=8)


def test_evaluations_inherit_data_and_network_unless_they_name_others():
    pretrained, _ = load("cifar10")
    pretrained.data.root = "/data/tfds"
    config = config_lib.linear_probe()
    saved_config.inherit(config, pretrained)
    assert (config.data.name, config.data.root, config.data.train_split) == ("cifar10", "/data/tfds", "train")
    assert (config.model.depth, config.data.image_size) == (50, 32)
    # Another folder for the labels; the network and the image size still come from pretraining.
    config = config_lib.finetune()
    config.data.update(source="folder", root="labelled")
    saved_config.inherit(config, pretrained)
    assert (config.data.name, config.data.root, config.data.image_size, config.model.stem) == (
        None,
        "labelled",
        32,
        "cifar",
    )
    config = config_lib.finetune()
    saved_config.inherit(config, None)
    with pytest.raises(UserError, match="config.data.source is not set: do this"):
        config_checks.require(config, "data.source", hint="do this")
