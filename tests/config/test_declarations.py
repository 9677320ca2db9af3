"""The declarations of the fields: every choice and every bound holds, and each is acted on where it should be."""

import json
import subprocess
import sys

from helpers import REPOSITORY
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import checks
from simclr_jax.config import choices
from simclr_jax.config import saved
from simclr_jax.config.field import POSITIVE
from simclr_jax.config.locate import find_config
from simclr_jax.errors import UserError

FIELDS = [(kind, name, field) for kind in config_lib.KINDS for name, field in config_lib.fields_of(kind).items()]
# For each bound by its text, a value that breaks it.
BROKEN = {
    "positive": 0,
    "at least 0": -1,
    "from 0 to 2147483647": 2**31,
    "at least 1": 0,
    "at least 2, because a single image has no negatives": 1,
    "a share in (0, 1]": 0.0,
    "a share in [0, 1]": 1.5,
    "a share in (0, 1)": 1.0,
    "a probability in [0, 1]": -0.1,
    "in [0, 1)": 1.0,
    "-1 or at least 1": 0,
    "positive, with 64 * width a whole number": 0.3,
    "whole numbers from 0 up to 2147483647, at least one, each once": (-1,),
    "positive numbers, at least one": (0.0,),
    "positive numbers, or none": (0.0,),
    "numbers from 0 up, at least one": (),
    "three numbers, one for each of red, green and blue": (0.5,),
    "three positive numbers, one for each of red, green and blue": (0.5, 0.5, 0.0),
    "(low, high) with 0 < low <= high <= 1, as in 0.1,0.9": (0.5, 2.0),
    "(low, high) with 0 < low <= high, as in 0.1,0.9": (2.0, 1.0),
    "'h', 'z', or 'g1', 'g2', ... for a layer of the projection head": "g0",
    f"some of {config_lib.TRANSFORMS!r}, with spaces between": "rotate sharpen",
}


def set_field(config, name, value):
    *blocks, last = name.split(".")
    for block in blocks:
        config = config[block]
    config[last] = value


@pytest.mark.parametrize(("kind", "name", "field"), FIELDS, ids=[f"{kind}.{name}" for kind, name, _ in FIELDS])
def test_every_field_has_a_good_default_a_help_and_a_bound_that_bites(kind, name, field):
    assert field.doc.endswith(".")
    assert field.problem(field.default) is None
    assert field.default is None or isinstance(field.default, field.value_type)
    config = config_lib.defaults(kind)
    wrong = "no such name" if field.choices and field.value_type is str else 17 if field.choices else None
    if field.bound is not None:
        wrong = BROKEN[field.bound.text]
    if wrong is None:
        return
    set_field(config, name, wrong)
    with pytest.raises(UserError, match=rf"config\.{name} is .*, but must be"):
        checks.check_values(config, 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("augment.crop_area", (0.5,), "with 0 < low"),
        ("lbfgs.l2_max", 1e-9, "must be at most config.lbfgs.l2_max"),
        ("label_seeds", (0, 0.5), "whole numbers"),
        ("label_seeds", (0, 1, 1), "at least one, each once"),
    ],
)
def test_values_that_do_not_go_together_are_refused(name, value, message):
    config = config_lib.linear_probe()
    set_field(config, name, value)
    with pytest.raises(UserError, match=message):
        checks.check_values(config, 1)


def test_a_config_of_another_kind_is_refused():
    with pytest.raises(
        UserError, match=r"config.kind is 'knn': this config is for simclr_jax.knn, but simclr_jax.finetune"
    ):
        checks.check_fields(config_lib.knn(), config_lib.finetune())


@pytest.mark.parametrize("kind", config_lib.KINDS)
def test_old_configs_have_their_kind_inferred(kind):
    old = json.loads(saved.to_json(config_lib.defaults(kind)))
    del old["kind"]
    assert saved.upgrade(old)["kind"] == kind
    assert saved.from_dict(old, config_lib.defaults(kind)) == config_lib.defaults(kind)


def test_old_names_of_fields_are_read_and_refused_in_new_configs():
    old = json.loads(saved.to_json(config_lib.pretrain()))
    del old["augment"]["noise_std"]
    old["augment"]["noise_deviation"] = 0.3
    assert saved.from_dict(old, config_lib.pretrain()).augment.noise_std == 0.3
    config = config_lib.pretrain()
    with config.unlocked():
        config.augment.noise_deviation = 0.3
    with pytest.raises(UserError, match="config.augment.noise_deviation is called config.augment.noise_std now"):
        checks.check_fields(config, config_lib.pretrain())
    with pytest.raises(UserError, match="not a config of this program"):
        saved.upgrade({"a": 1})


def test_every_choice_is_acted_on():
    from simclr_jax.models import resnet
    from simclr_jax.objectives.choose import make_objective
    from simclr_jax.training import optim

    for name in choices.OPTIMIZERS:
        optimizer = config_lib.pretrain().optimizer
        optimizer.name = name
        optim.make_optimizer(optimizer, 0.1)
    for name in choices.SCALINGS:
        assert POSITIVE.holds(optim.peak_learning_rate(0.3, name, 256))
    loss = config_lib.pretrain().loss
    seen = set()
    for name in choices.LOSSES:
        loss.name = name
        from helpers import mesh_of

        seen.add(make_objective(loss, 8, mesh_of(1)).__code__.co_firstlineno)
    assert len(seen) == len(choices.LOSSES)
    assert set(choices.DEPTHS) == set(resnet.STAGES)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("PHOTOS,size=64", {"root": "PHOTOS", "size": 64}),
        ("root='my, photos',size=64", {"root": "my, photos", "size": 64}),
        ('"my, photos"', {"root": "my, photos", "size": 224}),
        ("root=a=b", {"root": "a=b", "size": 224}),
        ("'a=b',size=32", {"root": "a=b", "size": 32}),
        ("it's,\n  size=32", {"root": "it's", "size": 32}),
        (None, {"root": "", "size": 224}),
    ],
)
def test_arguments_may_hold_commas_and_equals_signs(text, values):
    assert config_lib.parse_arg(text, root="", size=224).to_dict() == values


@pytest.mark.parametrize("name", ["digits", "digits.py", "configs/digits.py"])
def test_shipped_configs_are_known_by_name_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == REPOSITORY / "configs" / "digits.py"
    with pytest.raises(UserError, match="no such file. The configs in .* are cifar10, "):
        find_config("digit")
    assert config_lib.load("cifar10_small", "epochs=3").epochs == 3.0


@pytest.mark.slow
def test_configs_need_neither_jax_nor_tensorflow():
    code = (
        "import sys, simclr_jax.config, simclr_jax.config.checks; assert not {'jax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
