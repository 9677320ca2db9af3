"""All measures of some networks on some images, by name."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.augment import alone
from simclr_jax.diagnosis import spectrum
from simclr_jax.diagnosis import views as views_lib
from simclr_jax.diagnosis.representations import COLOUR
from simclr_jax.diagnosis.representations import Images
from simclr_jax.diagnosis.representations import Network
from simclr_jax.diagnosis.representations import represent
from simclr_jax.objectives.nt_xent import nt_xent

VIEWS = 4  # of each image, in what takes several
NEIGHBOURS = 10
_COLOUR: dict[str, object] = {"jitter_prob": 1.0, "grayscale_prob": 0.2}
# The questions "which image is this?", the same for every run: how the view is made. Each is asked among the unchanged images.
QUESTIONS: dict[str, dict[str, object]] = {
    "crop": {"crop": True, "crop_area": (0.4, 0.6)},
    "colour": _COLOUR | {"strength": 1.0},
    "crop_and_colour": _COLOUR | {"crop": True, "crop_area": (0.25, 1.0), "strength": 0.5},
}

Features = Mapping[str, Mapping[str, np.ndarray]]  # by network, by layer


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the networks make of the images.

    Attributes:
      images: of the unchanged images, `[n, 1, d]`.
      questions: of the views of each question; those of "crop_and_colour" are `VIEWS`, `[n, views, d]`.
      own: of two views with the augmentation of the run, `[n, 2, d]`.
    """

    images: Features
    questions: Mapping[str, Features]
    own: Features


def changed(fields: Mapping[str, object], augment: ConfigDict | None = None) -> ConfigDict:
    """`config.augment` with nothing on but what `fields` turn on. `augment` has the strengths; None for the defaults."""
    augment = config_lib.pretrain().augment if augment is None else augment
    augment = ConfigDict(augment).copy_and_resolve_references()
    augment.update({**alone.NOTHING, **fields})
    return augment


def look(networks: Sequence[Network], images: Images, augment: ConfigDict) -> Seen:
    """Runs the networks over the images and over views of them; `augment` is that of the run."""
    questions = {
        name: represent(networks, images, changed(fields), VIEWS if name == "crop_and_colour" else 1)
        for name, fields in QUESTIONS.items()
    }
    of_run = ConfigDict(augment).copy_and_resolve_references()
    of_run.update({"where": "host"})
    own = represent(networks, images, of_run, 2)
    return Seen(represent(networks, images, changed({}), 1), questions, own)


def measure(seen: Seen, name: str) -> dict[str, float]:
    """The measures of one network, or of the colour histograms: numbers by name.

    Names end in the layer that they are of, h or z. What needs the distribution of views takes those of the question
    "crop_and_colour".
    """
    measures: dict[str, float] = {}
    for layer, images in ((key, value[:, 0]) for key, value in seen.images[name].items()):
        views = seen.questions["crop_and_colour"][name][layer]
        shares = spectrum.spectrum(images)
        of_layer = {
            "rankme": spectrum.rankme(images),
            "dimensions": spectrum.entropy_rank(shares),
            "first_share": float(shares[0]),
            "deviation": spectrum.feature_deviation(images),
            "alignment": views_lib.alignment(views),
            "uniformity": views_lib.uniformity(images),
            "lidar": views_lib.lidar(views),
            "consistency": float(views_lib.neighbour_overlap(views[:, 0], views[:, 1], neighbours(len(views))).mean()),
        }
        for question, right in answers(seen, name, layer).items():
            of_layer[f"recognised_{question}"] = float(right.mean())
        measures |= {f"{measure}_{layer}": value for measure, value in of_layer.items()}
    return measures


def answers(seen: Seen, name: str, layer: str = "h") -> dict[str, np.ndarray]:
    """Which images a network recognises in each question, bool `[n]`; `own`: in the second view of the run, the first one."""
    images = seen.images[name][layer][:, 0]
    right = {
        question: views_lib.recognised(views[name][layer][:, 0], images) for question, views in seen.questions.items()
    }
    own = seen.own[name][layer]
    return right | {"own": views_lib.recognised(own[:, 0], own[:, 1])}


def neighbours(count: int) -> int:
    """The number of neighbours to look at among `count` images."""
    return max(1, min(NEIGHBOURS, (count - 1) // 4))


def of_the_run(seen: Seen, name: str, config: ConfigDict) -> dict[str, float]:
    """The measures of one network that need more than its own representations: `colour_neighbours_h` and `loss_share_z`.

    - colour_neighbours_h: the share of the nearest neighbours by h that are nearest by colour histogram too.
    - loss_share_z: NT-Xent of the run's own views in units of what guessing has, 2 log(2 batch - 1): 1 is chance, 0 a perfect
      answer. Missing where the run has another loss.

    Args:
      seen: what the networks made of the images.
      name: of the network.
      config: of the run.
    """
    h, histograms = seen.images[name]["h"][:, 0], seen.images[COLOUR]["h"][:, 0]
    found = {"colour_neighbours_h": float(views_lib.neighbour_overlap(h, histograms, neighbours(len(h))).mean())}
    if config.loss.name != "nt_xent":
        return found
    own = seen.own[name]
    z = own.get("z", own["h"])
    pairs = min(config.batch_size, len(z))
    starts = range(0, len(z) - pairs + 1, pairs)
    losses = [
        nt_xent(jnp.asarray(z[start : start + pairs]), config.loss.temperature, config.loss.normalize)
        for start in starts
    ]
    return found | {"loss_share_z": float(np.mean(losses)) / (2 * math.log(2 * pairs - 1))}
