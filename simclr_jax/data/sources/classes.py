"""Whether two splits have the same classes."""

from collections.abc import Sequence
import logging
import unicodedata

import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")


def check_same_classes(train: Source, test: Source) -> None:
    """Checks that a test split has the classes of the training split, by their names and, where they are known, by its labels.

    Class names may be those of all splits, as in a file of arrays. A test split that has no image of one of them may be small,
    so this is a warning only.

    Raises:
      UserError: naming the missing and the unknown classes, or a split without labels.
    """
    if train.class_names is None or test.class_names is None:
        unlabelled = train if train.class_names is None else test
        raise UserError(f"{unlabelled.name} has no labels, which this evaluation needs.")
    missing = sorted(set(train.class_names) - set(test.class_names))
    unknown = sorted(set(test.class_names) - set(train.class_names))
    alike = {_normalised(name): name for name in missing}
    pair = next(((alike[_normalised(name)], name) for name in unknown if _normalised(name) in alike), None)
    if pair:
        raise UserError(
            f"{train.name} has the class {pair[0]} and {test.name} has {pair[1]}, which look the same but are other "
            f"characters, {pair[0]!a} and {pair[1]!a} (Unicode normalisation): rename one."
        )
    if missing:
        raise UserError(f"{test.name} lacks the class{'es' * (len(missing) > 1)} {', '.join(missing)} of {train.name}.")
    if unknown:
        raise UserError(
            f"{test.name} has the class{'es' * (len(unknown) > 1)} {', '.join(unknown)}, unknown to {train.name}."
        )
    _check_same_labels(train, test)


def _check_same_labels(train: Source, test: Source) -> None:
    """The part of `check_same_classes` for the classes that images have, where the names are those of all splits."""
    both = (train, test)
    if any(not isinstance(source, RandomAccess) or source.all_labels is None or source.multi_label for source in both):
        return  # a stream, whose labels are not known, or images with several classes
    names = train.class_names or ()
    classes, tested = (set(np.unique(source.labels[source.labels >= 0]).tolist()) for source in both)
    unknown, missing = ([names[label] for label in sorted(some)] for some in (tested - classes, classes - tested))
    if unknown:
        classes_are = f"class{'es' * (len(unknown) > 1)} {some_names(unknown)}"
        message = f"{test.name} has images of the {classes_are}, of which {train.name} has none"
        # A data set with named classes may be used in slices so small that one lacks some, as the 1,000 images of VTAB.
        if not tested & classes or (isinstance(train, RandomAccess) and train.pixels is not None):
            raise UserError(f"{message}.")
        log.warning("%s: no classifier can be right about these.", message)
    if missing:
        log.warning("%s has no image of the class%s %s.", test.name, "es" * (len(missing) > 1), some_names(missing))


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def some_names(names: Sequence[str]) -> str:
    """The first ten names for a message, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
