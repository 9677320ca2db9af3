"""One number for an encoder, without labels: from 0, it knows nothing of the images, to 1."""

from collections.abc import Mapping
import math

from simclr_jax.diagnosis.measures import QUESTIONS


def parts(measures: Mapping[str, float], features: int) -> dict[str, float]:
    """The parts of the score, each in [0, 1] and the larger, the better.

    - questions: the mean share of the images that h recognises in the three questions.
    - consistency: the share of the nearest neighbours of a view that are those of another view of the image.
    - dimensions: the effective rank of h on a logarithmic scale, from 1 to the number of features.

    Args:
      measures: of `measures.measure`.
      features: of h.
    """
    questions = [measures[f"recognised_{name}_h"] for name in QUESTIONS]
    rank = max(1.0, measures["dimensions_h"])
    return {
        "questions": sum(questions) / len(questions),
        "consistency": measures["consistency_h"],
        "dimensions": min(1.0, math.log(rank) / math.log(max(2, features))),
    }


def score(measures: Mapping[str, float], features: int) -> float:
    """The geometric mean of the parts: rises with each of them, and is 0 where one of them is, as after a collapse."""
    values = parts(measures, features).values()
    return float(math.prod(values) ** (1 / len(values)))
