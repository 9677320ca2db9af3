"""Images of one class: no classifier is fitted to them, and an accuracy that says nothing is not left without a word."""

import dataclasses

from helpers import write_image
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import pretrain
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation.labelled_data import open_labelled


@pytest.fixture
def images(tmp_path):
    """Images of the class a, for training and for the test."""
    for split in ("train", "test"):
        for number in range(3):
            write_image(tmp_path / split / "a" / f"{number}.png", seed=number)
    return tmp_path


def opened(kind, images, labels=None, **fields):
    config = getattr(config_lib, kind)()
    config.update(fields)
    with config.unlocked():
        config.data.update(source="folder", root=str(images), train_split="train", labels=labels)
    return open_labelled(config, kind != "distill", kind == "transfer", kind == "knn")


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        *(("linear_probe", "lbfgs"), ("linear_probe", "sgd"), ("finetune", None), ("distill", None)),
        *(("transfer", "lbfgs"), ("transfer", "finetune")),
    ],
)
def test_a_classifier_of_one_class_is_refused_before_any_work(images, kind, protocol):
    with pytest.raises(UserError, match=r"has only the class 'a': a classifier needs at least two\.$"):
        opened(kind, images, **({"protocol": protocol} if protocol else {}))


def test_a_table_of_one_class_is_refused(images):
    table = images / "labels.csv"
    rows = [f"{split}/a/{number}.png,cat,{split}" for split in ("train", "test") for number in range(3)]
    table.write_text("\n".join(["path,class,split", *rows]))
    with pytest.raises(UserError, match="has only the class 'cat'"):
        opened("linear_probe", images, labels=str(table))


def test_training_images_of_one_of_several_classes_are_refused(images, monkeypatch):
    open_source = sources.open_source
    monkeypatch.setattr(
        sources, "open_source", lambda *args: dataclasses.replace(open_source(*args), class_names=["a", "b"])
    )
    with pytest.raises(UserError, match="has only the class 'a'"):
        opened("finetune", images)
    opened("linear_probe", images, protocol="stored")  # which fits nothing


def test_neighbours_and_the_online_classifier_say_that_accuracy_says_nothing(images, caplog):
    opened("knn", images)
    assert "has only the class 'a': accuracy says nothing, because the nearest neighbours" in caplog.text
    caplog.clear()
    config = config_lib.pretrain()
    config.data.update(source="folder", root=str(images), image_size=32, eval_crop=1.0)
    config.model.depth = 10
    pretrain._open_data(config)
    assert "has only the class 'a': accuracy says nothing, because the online classifier" in caplog.text


def test_readable_images_of_one_class_are_refused():
    with pytest.raises(UserError, match="all of one class: a classifier needs at least two"):
        logistic_regression.fit(np.ones((4, 2), np.float32), np.full(4, 3), config_lib.linear_probe().lbfgs, seed=0)
