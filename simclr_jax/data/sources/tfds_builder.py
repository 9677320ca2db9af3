"""Find a data set of TensorFlow Datasets (TFDS), prepare it, and find its image and its label."""

import logging
from typing import Any

import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.runtime.tensorflow import tfds

log = logging.getLogger("simclr_jax")


def find_builder(name: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a data set that TFDS knows or that is on disk.

    Raises:
      UserError: where it is neither.
    """
    if not name:
        raise UserError(
            'config.data.name is not set: give the name of a TFDS data set, as in "--config.data.name=cifar10".'
        )
    where = data_dir or tfds.core.constants.DATA_DIR
    try:
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many types, some with its whole catalogue as the message
        first = str(error).strip().splitlines()[0]
        raise UserError(f"TFDS does not know the data set {name!r}, nor is it prepared in {where}: {first}") from error


def prepared_builder(name: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is on disk, after downloading and preparing it if necessary.

    Raises:
      UserError: where it cannot be prepared.
    """
    builder = find_builder(name, data_dir)
    if builder.is_prepared():
        return builder
    where = data_dir or tfds.core.constants.DATA_DIR
    log.warning("TFDS %s is not prepared in %s; downloading and preparing it there.", name, where)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise UserError(
            f"TFDS {name} is not prepared in {where} and could not be downloaded: {error}\n"
            f"Prepare it there with `tfds build {name}`, or say where it is with --config.data.root=DATA_DIR."
        ) from error
    return builder


def feature_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str | None]:
    """The names of the image and of the label feature.

    The image feature is `image`, or the only image. The label feature is `label`, or the only single label; without one,
    `labels`, or the only list of labels; without one, None.

    Raises:
      UserError: where no image feature can be chosen.
    """

    def find(is_one, preferred):
        keys = [key for key, feature in builder.info.features.items() if is_one(feature)]
        return preferred if preferred in keys else keys[0] if len(keys) == 1 else None

    def is_label(feature) -> bool:
        return isinstance(feature, tfds.features.ClassLabel)

    def is_list_of_labels(feature) -> bool:
        return isinstance(feature, tfds.features.Sequence) and is_label(feature.feature)

    image_key = find(lambda feature: isinstance(feature, tfds.features.Image), "image")
    if image_key is None:
        raise UserError(
            f"TFDS {builder.info.full_name} has no feature `image`, and not exactly one other image feature."
        )
    return image_key, find(is_label, "label") or find(is_list_of_labels, "labels")


def label_of(
    example: dict[str, Any], label_key: str | None, class_names: list[str] | None, multi_label: bool
) -> int | np.ndarray:
    """The class of an example.

    With several, `[classes]`: 1 for each of its classes, -1 if all its objects of that class are difficult, or 0.
    """
    if not multi_label:
        return example[label_key] if label_key else -1
    assert class_names is not None and label_key is not None  # both are there if there are several labels
    classes = np.zeros(len(class_names), np.int32)
    classes[example[label_key]] = 1
    easy = example.get(f"{label_key}_no_difficult")  # the name in TFDS's voc
    if easy is not None:
        classes[np.setdiff1d(example[label_key], easy)] = -1
    return classes
