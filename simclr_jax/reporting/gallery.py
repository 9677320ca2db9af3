"""Renders groups of images as one HTML page with small pictures."""

import base64
from collections.abc import Sequence
import dataclasses
import io
from typing import Protocol

from etils import epath
import numpy as np

from simclr_jax.reporting.page import TEMPLATES

# Pixels of the longer side of a picture, and pictures of a group.
PICTURE_SIZE, SHOWN_PICTURES = 128, 24


class Group(Protocol):
    """What the page needs of a group: see `retrieval.groups.Group`."""

    @property
    def title(self) -> str: ...

    @property
    def rows(self) -> np.ndarray: ...

    @property
    def similarities(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Picture:
    """A JPEG picture in base64 and its caption. The picture is None where the image cannot be read."""

    jpeg: str | None
    path: str
    caption: str


def render(
    paths: Sequence[str],
    labels: Sequence[str] | None,
    groups: Sequence[Group],
    total: int,
    title: str,
    folder: epath.Path | None,
) -> str:
    """The whole page.

    Args:
      paths: of all images.
      labels: of all images, or None.
      groups: the groups to show.
      total: the number of groups that were found.
      title: the heading.
      folder: where relative paths begin; None: where the command runs.
    """

    def picture(row: int, similarity: float) -> Picture:
        label = f"{labels[row]}, " if labels and labels[row] else ""
        return Picture(_thumbnail(paths[row], folder), paths[row], f"{label}{similarity:.3f}")

    shown = [
        (group.title, [picture(row, similarity) for row, similarity in zip(*_first(group), strict=True)])
        for group in groups
    ]
    return TEMPLATES.get_template("gallery.html.j2").render(title=title, groups=shown, left_out=total - len(shown))


def _first(group: Group) -> tuple[list[int], list[float]]:
    return group.rows[:SHOWN_PICTURES].tolist(), group.similarities[:SHOWN_PICTURES].tolist()


def _thumbnail(path: str, folder: epath.Path | None) -> str | None:
    """The picture of a file as JPEG in base64, or None."""
    from PIL import Image

    from simclr_jax.augment.image_files import pixels_of
    from simclr_jax.augment.orientation import upright

    try:
        with ((folder / path) if folder else epath.Path(path)).open("rb") as file, Image.open(file) as image:
            image.draft("RGB", (2 * PICTURE_SIZE, 2 * PICTURE_SIZE))
            small = Image.fromarray(pixels_of(upright(image)))
            small.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()
