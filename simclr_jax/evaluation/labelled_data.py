"""Open the images of an evaluation, which need labels."""

from collections.abc import Sequence
import logging

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data import sources
from simclr_jax.data.sources.classes import some_names
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")

# Kinds of runs that fit no classifier to the classes of the images: one class is enough for them.
WITHOUT_CLASSIFIER = ("knn", "transform_probe")


def open_labelled(
    config: ConfigDict, train_labels: bool, multi_label: bool, unlabelled: bool
) -> tuple[sources.Source, sources.Source]:
    """The training and the test images of an evaluation.

    Args:
      config: of the evaluation, with all of `data`.
      train_labels, multi_label, unlabelled: as in `setup.set_up`.

    Raises:
      UserError: where labels are missing, the two have other classes, or a classifier would have one class only.
    """
    train = sources.open_source(config.data, "train")
    if unlabelled and train.class_names is None:
        try:
            return train, sources.open_source(config.data, "test")
        except UserError:
            return train, train
    if train_labels:
        check_labels(train, multi_label=multi_label)
    test = sources.open_source(config.data, "test")
    check_labels(test, multi_label=multi_label)
    if train.class_names is not None:
        sources.check_same_classes(train, test)
    if config.kind == "knn":
        warn_of_one_class(train, "the nearest neighbours are always right")
    elif config.kind not in WITHOUT_CLASSIFIER and config.get("protocol") != "stored" and not train.multi_label:
        # A student learns from its teacher: the labels of its training images, if there are any, are not used.
        check_two_classes(train if train_labels else test, all_images=train_labels)
    return train, test


def check_labels(source: sources.Source, *, multi_label: bool) -> None:
    """Refuses a source without labels; and one with several labels per image unless `multi_label` is True."""
    if source.multi_label and not multi_label:
        raise UserError(
            f"the images of {source.name} have several labels each, which only simclr_jax.transfer can use."
        )
    if source.class_names is None:
        raise UserError(
            f"{source.name} has no labels, which an evaluation needs: point --config.data.root at a folder with "
            "train/CLASS and test/CLASS, or name a table with --config.data.labels (an .npz needs the arrays train_labels and "
            "test_labels; or choose another --config.data.source)."
        )


def only_class(source: sources.Source, *, all_images: bool = True) -> str | None:
    """The name of the class of all images; None where there are several classes, or no labels.

    Args:
      source: of images with one class each. Of a stream the names are known, and not which of them occur.
      all_images: also where there are several names, but all images have the same one.
    """
    names = source.class_names or ()
    if len(names) == 1:
        return names[0]
    labels = source.all_labels if isinstance(source, sources.RandomAccess) else None
    if all_images and names and labels is not None and labels.ndim == 1:
        occurring = np.unique(labels)
        return names[int(occurring[0])] if len(occurring) == 1 else None
    return None


def check_two_classes(source: sources.Source, *, all_images: bool = True) -> None:
    """Refuses images of one class; see `only_class`.

    Raises:
      UserError: with the name of the class.
    """
    name = only_class(source, all_images=all_images)
    if name is not None:
        raise UserError(f"{source.name} has only the class {name!r}: a classifier needs at least two.")


def warn_of_one_class(source: sources.Source, why: str) -> None:
    """Says in the log that accuracy on images of one class says nothing, and `why`. Silent where there are several."""
    name = only_class(source)
    if name is not None:
        log.warning("%s has only the class %r: accuracy says nothing, because %s.", source.name, name, why)


def check_classifier(what: str, number: int, names: Sequence[str] | None, test: sources.Source, hint: str) -> None:
    """Checks that a classifier that is there already is for the classes of the test images.

    Args:
      what: names it.
      number: of its classes.
      names: of its classes; None where it does not have them.
      test: has class names.
      hint: what to do instead.

    Raises:
      UserError: where the number of classes differs. Where only the names do, this is a line in the log.
    """
    of_test = list(test.class_names or ())
    has = f"the classes {some_names(names)}" if names else f"{number} classes"
    test_has = f"{test.name} has {len(of_test)}, {some_names(of_test)}"
    if number != len(of_test):
        raise UserError(f"{what} has {has}, but {test_has}: {hint}")
    if names and list(names) != of_test:
        log.warning("%s has %s, but %s: they are taken to be the same, in this order.", what, has, test_has)
