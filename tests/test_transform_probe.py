"""Which transformation was applied: forms, the classifiers, and a run."""

import json

from helpers import REPOSITORY
from helpers import UNTRAINED
import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import transform_probe
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli

pytestmark = pytest.mark.slow

IMAGES = jax.random.uniform(jax.random.key(0), (6, 8, 8, 3))


def test_forms_are_what_they_are_called():
    forms = transform_probe.forms(config_lib.transform_probe())
    for turns, form in enumerate(forms["rotate"]):
        np.testing.assert_array_equal(form(IMAGES), np.rot90(IMAGES, turns, axes=(1, 2)))
    noisy = forms["noise"][1]
    np.testing.assert_array_equal(noisy(IMAGES)[2:], noisy(IMAGES[2:]))
    difference = np.asarray(noisy(IMAGES) - IMAGES)
    assert 0.05 < difference.std() < 0.11
    assert np.abs(np.corrcoef(difference.reshape(6, -1)) - np.eye(6)).max() < 0.3
    for name in ("grayscale", "noise", "sobel"):
        np.testing.assert_array_equal(forms[name][0](IMAGES), IMAGES)


@pytest.mark.parametrize(("kind", "least"), [("mlp", 0.9), ("linear", 0.0)])
def test_the_classifier_tells_apart_what_differs(kind, least):
    random = np.random.default_rng(0)
    config = config_lib.transform_probe()
    config.classifier = kind

    def ring(count, radius):
        angle = random.uniform(0, 2 * np.pi, count)
        return (radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)

    found = transform_probe.accuracy([ring(300, 1), ring(300, 2)], [ring(200, 1), ring(200, 2)], config)
    assert found > least
    if kind == "linear":
        assert found < 0.65, "no line separates rings"
    same = transform_probe.accuracy([ring(300, 1), ring(300, 1)], [ring(200, 1), ring(200, 1)], config)
    assert 0.4 < same < 0.6


def test_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    results = cli.call(
        "transform_probe",
        f"--workdir={tmp_path}",
        *UNTRAINED,
        "--config.model.stem=cifar",
        "--config.train_images=300",
        "--config.batch_size=120",
        "--config.transforms=rotate sobel",
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["sobel"] > 0.75
    assert results["rotate"] > 0.3, "chance is a quarter"
    assert "grayscale" not in results


@pytest.mark.parametrize(("transforms", "least"), [("noise rotate", 6), ("rotate", 3)])
def test_the_least_number_of_images_is_that_of_the_classifier(transforms, least):
    config = config_lib.transform_probe()
    config.transforms = transforms
    assert transform_probe.least_images(config) == least
    for name in transforms.split():
        number = len(transform_probe.forms(config)[name])
        parts = np.random.default_rng(0).normal(size=(number, least, 4)).astype(np.float32)
        transform_probe.accuracy(list(parts), list(parts), config)
        if number == 2 or transforms == name:
            with pytest.raises(
                ValueError, match="should be greater or equal to the number of classes|set is too small"
            ):
                transform_probe.accuracy(list(parts[:, 1:]), list(parts), config)


def test_too_few_images_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    few = [f"--workdir={tmp_path}", *UNTRAINED, "--config.model.stem=cifar", "--config.train_images=3"]
    with pytest.raises(
        UserError, match=r"3 training images are too few .*, config.train_images is 3\): .* needs at least 6"
    ):
        cli.call("transform_probe", *few)
    assert not (tmp_path / "config.json").exists()
    cli.call("transform_probe", *few, "--config.classifier=linear", "--config.transforms=sobel")
