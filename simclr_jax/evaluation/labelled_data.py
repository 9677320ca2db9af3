"""Open the images of an evaluation, which need labels."""

from ml_collections import ConfigDict

from simclr_jax.data import sources
from simclr_jax.errors import UserError


def open_labelled(
    config: ConfigDict, train_labels: bool, multi_label: bool, unlabelled: bool
) -> tuple[sources.Source, sources.Source]:
    """The training and the test images of an evaluation.

    Args:
      config: of the evaluation, with all of `data`.
      train_labels, multi_label, unlabelled: as in `setup.set_up`.

    Raises:
      UserError: where labels are missing, or the two have other classes.
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
            "train/CLASS and test/CLASS, or name a table with --config.data.labels (or choose another --config.data.source)."
        )
