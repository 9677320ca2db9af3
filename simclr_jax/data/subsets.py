"""Choose the labels that a semi-supervised run may use: class-balanced and seeded (paper section 4.2: 1 % and 10 %)."""

import json
import logging

from etils import epath
import numpy as np

from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")


def choose_labelled(
    labels: np.ndarray, class_names, *, fraction: float = 1.0, per_class: int = 0, seed: int = 0
) -> np.ndarray:
    """Draws the examples whose labels may be used, without replacement and the same number from each class.

    Args:
      labels: int `[n]`.
      class_names: of the classes 0, 1, ...
      fraction: of the n labels, in (0, 1]. Each class gets `round(fraction * n / classes)`, but at least one, and at most all
        of its examples.
      per_class: if positive, this many of each class instead.
      seed: of the draw.

    Returns:
      Sorted int64 indices. If `fraction` is 1 and `per_class` is 0: all of them, balanced or not.

    Raises:
      UserError: where a class has no examples, or fewer than `per_class`.
    """
    if not per_class and fraction == 1.0:
        return np.arange(len(labels))
    target = per_class or max(1, round(fraction * len(labels) / len(class_names)))
    if not per_class and fraction * len(labels) / len(class_names) < 0.5:
        log.warning(
            "config.label_fraction=%s of %d labels is less than half a label of each of the %d classes: one of each is used.",
            fraction,
            len(labels),
            len(class_names),
        )
    chosen = []
    for number, name in enumerate(class_names):
        members = np.flatnonzero(labels == number)
        if len(members) == 0:
            raise UserError(f"the class {name!r} has no training examples, so no class-balanced subset exists.")
        if per_class > len(members):
            raise UserError(
                f"config.labels_per_class={per_class}, but the class {name!r} has only {len(members)} examples."
            )
        if target > len(members):
            log.warning("Class %r has only %d examples: all are used, instead of %d.", name, len(members), target)
        # One generator per class, so that the draw in a class does not depend on the other classes.
        chosen.append(np.random.default_rng([seed, number]).permutation(members)[:target])
    return np.sort(np.concatenate(chosen))


def labelled_rows(
    source: Source, *, fraction: float, per_class: int, seed: int, ids_file: epath.Path | None
) -> np.ndarray:
    """The indices of `choose_labelled` in a source.

    If they are not all, and `ids_file` is given, the chosen examples are listed in it (JSON).
    """
    if not per_class and fraction == 1.0:
        return np.arange(source.num_examples)
    labels = source.labels
    class_names = source.class_names or ()
    chosen = choose_labelled(labels, class_names, fraction=fraction, per_class=per_class, seed=seed)
    if ids_file is None:
        return chosen
    record = {
        "source": source.name,
        "seed": seed,
        "num_examples": len(chosen),
        "examples": [
            {"index": int(index), "id": source.describe(int(index)), "label": class_names[labels[index]]}
            for index in chosen
        ],
    }
    ids_file.write_text(json.dumps(record, indent=1) + "\n")
    return chosen
