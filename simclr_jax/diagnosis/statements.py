"""What the measures mean, in plain sentences."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from simclr_jax.diagnosis.augmentations import IN_THE_RUN
from simclr_jax.diagnosis.augmentations import Row
from simclr_jax.objectives.representations import COLLAPSED
from simclr_jax.training.advice import FEW_STEPS

# Standard errors by which the trained network has to answer better than the untrained one. The best of four questions counts:
# by chance, one of four is above 2.5 in 2.5 % of the cases.
SURE, LIKELY = 5.0, 2.5
_ASKED = {
    "crop": "through a crop",
    "colour": "in other colours",
    "crop_and_colour": "through a crop and other colours",
    "own": "from one view of the run to another",
}
# Of the untrained network's effective dimensions.
FEW_DIMENSIONS = 0.5
# Of the nearest neighbours by h, those that are nearest by colour too; and how much more that is than before training.
COLOUR_NEIGHBOURS, MORE_COLOUR = 0.2, 1.5
# Of what was learned, in the second half of the run.
STILL, HARDLY = 0.1, 0.03
# Of the images, those that are recognised through an operation.
EASY, HARD = 0.95, 0.1


@dataclasses.dataclass(frozen=True)
class Statement:
    """A question that a user has, the answer in a word ("yes", "no", "partly", "unclear"), and a sentence or two."""

    about: str
    answer: str
    text: str


def learned(pretrained: Mapping[str, np.ndarray], untrained: Mapping[str, np.ndarray]) -> Statement:
    """Whether training helped, and how sure that is: by the question in which the difference is the clearest.

    A network need not be good at all questions: one that was trained without colour distortion does not recognise an image in
    other colours.

    Args:
      pretrained, untrained: which images each network recognises in each question, bool `[n]`, of `measures.answers`.
    """
    found = {name: _gain(pretrained[name], untrained[name]) for name in _ASKED}
    name = max(found, key=lambda name: found[name])
    errors = found[name]
    numbers = (
        f"it recognises {pretrained[name].mean():.0%} of the images {_ASKED[name]}, the untrained network "
        f"{untrained[name].mean():.0%} (the difference is {errors:.1f} standard errors)"
    )
    if errors >= SURE:
        return Statement("learned", "yes", f"It has learned, for sure: {numbers}.")
    if errors >= LIKELY:
        return Statement("learned", "yes", f"It has probably learned something: {numbers}.")
    if errors > -LIKELY:
        return Statement("learned", "unclear", f"It is not better than the untrained network: at best {numbers}.")
    return Statement("learned", "no", f"It is worse than the untrained network: at best {numbers}.")


def _gain(pretrained: np.ndarray, untrained: np.ndarray) -> float:
    """By how many standard errors more images are recognised; both networks answer for the same images, bool `[n]`."""
    difference = pretrained.astype(float) - untrained.astype(float)
    error = max(difference.std() / math.sqrt(len(difference)), 1 / len(difference))
    return float(difference.mean() / error)


def collapsed(measures: Mapping[str, float], untrained: Mapping[str, float]) -> Statement:
    """Whether the representations are all the same, or use few dimensions."""
    rank, before = measures["dimensions_h"], untrained["dimensions_h"]
    numbers = f"h varies in {rank:.1f} effective dimensions, that of the untrained network in {before:.1f}"
    if measures["deviation_h"] < COLLAPSED or rank == 0:
        text = f"Collapsed: all images have nearly the same representation; {numbers}. Lower the learning rate."
        return Statement("collapsed", "yes", text)
    if rank < FEW_DIMENSIONS * before:
        return Statement("collapsed", "partly", f"Partly collapsed: {numbers}.")
    return Statement("collapsed", "no", f"Not collapsed: {numbers}.")


def colour_shortcut(measures: Mapping[str, float], untrained: Mapping[str, float], chance: float) -> Statement:
    """Whether nearest neighbours are neighbours by colour.

    Args:
      measures: of the pretrained network.
      untrained: the same of the untrained one.
      chance: the share of neighbours by colour among random images.
    """
    now, before = measures["colour_neighbours_h"], untrained["colour_neighbours_h"]
    numbers = (
        f"{now:.0%} of the nearest neighbours are nearest by colour histogram too (untrained {before:.0%}, chance "
        f"{chance:.0%}), and {measures['recognised_colour_h']:.0%} of the images are recognised in other colours"
    )
    if now > COLOUR_NEIGHBOURS and now > MORE_COLOUR * before:
        text = f"It relies on colour: {numbers}. Raise config.augment.strength or grayscale_prob."
        return Statement("colour shortcut", "yes", text)
    if now > COLOUR_NEIGHBOURS:
        return Statement("colour shortcut", "partly", f"Colour still decides many neighbours: {numbers}.")
    return Statement("colour shortcut", "no", f"It does not rely on colour: {numbers}.")


def improving(doubling: Mapping[str, float] | None, checkpoints: Sequence[Mapping[str, Any]]) -> Statement:
    """Whether longer training would help.

    Args:
      doubling: of `progress.last_doubling`.
      checkpoints: step and score of each checkpoint, ascending; the last one is that of the verdict.
    """
    text = ""
    if len(checkpoints) > 1:
        first, last = checkpoints[0], checkpoints[-1]
        text = f" The score was {first['score']:.2f} at step {first['step']} and is {last['score']:.2f} at step {last['step']}."
    if doubling is None:
        return Statement("still improving", "unclear", f"The metrics of the run do not say whether it improves.{text}")
    share = min(doubling["share"], 1.0)  # more than all of it, where the first half was spent above guessing
    numbers = f"the second half of the run contributed {share:.0%} of what the loss has gained on guessing"
    if checkpoints and checkpoints[-1]["step"] < FEW_STEPS:  # the curve of the loss is that of the warmup then
        text = f"It is too short to say: fewer than {FEW_STEPS} steps hardly train an encoder. Train longer first; {numbers}."
        return Statement("still improving", "unclear", text)
    if share > STILL:
        text = f"It was still improving: {numbers}. Twice the epochs should help.{text}"
        return Statement("still improving", "yes", text)
    if share > HARDLY:
        return Statement("still improving", "partly", f"It was improving slowly: {numbers}.{text}")
    return Statement("still improving", "no", f"It had stopped improving: {numbers}.{text}")


def augmentations(rows: Sequence[Row], has_learned: bool) -> list[Statement]:
    """Which operations of the run are too strong or too weak. Only a network that has learned can say it."""
    if not has_learned:
        return []
    found = []
    for row in rows:
        if row.strength != IN_THE_RUN:
            continue
        now, before = row.recognised["pretrained"], row.recognised["untrained"]
        numbers = f"through it alone {now:.0%} of the images are recognised, by the untrained network {before:.0%}"
        if now < HARD:
            found.append(
                Statement(
                    row.op, "too strong", f"{row.op} is too strong for these images or for so short a run: {numbers}."
                )
            )
        elif before > EASY:
            found.append(Statement(row.op, "too weak", f"{row.op} teaches little alone: {numbers}."))
    return found
