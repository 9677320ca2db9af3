"""Which augmentations are too strong or too weak for some images: how many images are recognised through each one alone."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses

from ml_collections import ConfigDict

from simclr_jax.augment import alone
from simclr_jax.augment import family
from simclr_jax.diagnosis.measures import changed
from simclr_jax.diagnosis.representations import Images
from simclr_jax.diagnosis.representations import Network
from simclr_jax.diagnosis.representations import represent
from simclr_jax.diagnosis.views import recognised

IN_THE_RUN = "as in the run"
AREAS = (0.64, 0.36, 0.16, 0.08)


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
    crops = [(f"area {area:g}", {"crop": True, "crop_area": (area, area), "crop_aspect": (1.0, 1.0)}) for area in AREAS]
    turns = [("a random turn", {"rotate_prob": 1.0})]
    return alone.columns(augment) | {"crop": crops, "rotate": turns}


def table(networks: Sequence[Network], images: Images, augment: ConfigDict) -> list[Row]:
    """The rows of `settings`: what each network recognises, among all `images`."""
    unchanged = represent(networks, images, changed({}), 1)
    rows = []
    for op, strength, fields in settings(augment, images.data.image_size):
        views = represent(networks, images, changed(fields, augment), 1)
        shares = {name: float(recognised(views[name]["h"][:, 0], unchanged[name]["h"][:, 0]).mean()) for name in views}
        rows.append(Row(op, strength, shares))
    return rows
