"""Which augmentations are too strong or too weak for some images: how many images are recognised through each one alone."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import alone
from simclr_jax.augment import family
from simclr_jax.augment import tf_ops
from simclr_jax.augment import tf_random
from simclr_jax.diagnosis.measures import changed
from simclr_jax.diagnosis.representations import SEED
from simclr_jax.diagnosis.representations import Images
from simclr_jax.diagnosis.representations import Network
from simclr_jax.diagnosis.representations import represent_all
from simclr_jax.diagnosis.views import recognised
from simclr_jax.runtime.tensorflow import tf

IN_THE_RUN = "as in the run"
AREAS = (0.64, 0.36, 0.2, 0.12)  # the pipeline makes no crop below a tenth


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation at one strength.

    Attributes:
      op: its name.
      strength: the title of the strength; `IN_THE_RUN` for the run's own.
      recognised: by network, the share of the images that it recognises through the operation, applied to every image.
    """

    op: str
    strength: str
    recognised: dict[str, float]


def settings(augment: ConfigDict, side: int) -> Iterator[tuple[str, str, dict]]:
    """Operation, title and fields of `config.augment` for each row.

    First every operation that is on, as in the run; then every operation at several strengths, those of `simclr_jax.preview`.

    Args:
      augment: of the run.
      side: of the views, in pixels: operations that change nothing at this size are left out.
    """
    if augment.crop:
        yield "crop", IN_THE_RUN, {"crop": True}
    for op in family.OPS:
        if op.is_on(augment, side):
            yield op.name, IN_THE_RUN, {op.prob_field: 1.0}
    for name, made in _strengths(augment).items():
        for title, fields in made:
            made_with = changed(fields, augment)
            if made_with.crop or any(op.is_on(made_with, side) for op in family.OPS):
                yield name, title, fields


def _strengths(augment: ConfigDict) -> dict[str, list[tuple[str, dict]]]:
    # A range of areas: images of few pixels have no crop of one exact area.
    crops = [
        (f"area {area:g}", {"crop": True, "crop_area": (0.75 * area, 1.25 * area), "crop_aspect": (1.0, 1.0)})
        for area in AREAS
    ]
    turns = [("a random turn", {"rotate_prob": 1.0})]
    return alone.columns(augment) | {"crop": crops, "rotate": turns}


def table(networks: Sequence[Network], images: Images, augment: ConfigDict) -> list[Row]:
    """The rows of `settings`: what each network recognises, among all `images`."""
    unchanged = _seen(images, changed({}))
    of_unchanged = represent_all(networks, unchanged, images.batch_size)
    rows = []
    for op, strength, fields in settings(augment, images.data.image_size):
        of_row = changed(fields, augment)
        views = _seen(images, of_row) if of_row.crop else _applied(unchanged, of_row)
        of_views = represent_all(networks, views, images.batch_size)
        shares = {name: float(recognised(of_views[name]["h"], of_unchanged[name]["h"]).mean()) for name in of_views}
        rows.append(Row(op, strength, shares))
    return rows


def _seen(images: Images, augment: ConfigDict) -> np.ndarray:
    """One view of each image as the pipeline makes it, uint8 `[n, size, size, 3]`."""
    return np.concatenate(list(images.views(augment, 1)))[:, 0]


def _applied(unchanged: np.ndarray, augment: ConfigDict) -> np.ndarray:
    """Operations of the family on images that are read already, uint8 `[n, size, size, 3]`."""
    draws = tf_random.uniforms(SEED, tf.range(len(unchanged)), 0, family.NUM_DRAWS)
    return tf_ops.random_views(tf.constant(unchanged, tf.float32) / 255.0, draws, augment).numpy()
