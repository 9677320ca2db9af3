"""Whether a run was still improving when it ended: from its metrics, and from the measures of its checkpoints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Of the steps: the window whose median counts as the loss at a point of the run.
WINDOW = 0.1
MIN_POINTS = 5


def last_doubling(lines: Sequence[dict[str, Any]], chance: float) -> dict[str, float] | None:
    """What the second half of a run, its last doubling in length, contributed to the loss.

    Args:
      lines: of metrics.jsonl, each with `step` and `loss`.
      chance: the loss of guessing.

    Returns:
      `half` and `end`, the losses around half of the run and at its end, and `share`: the part of all that was learned, from
      chance to the end, which the second half learned. None where there are too few points, or nothing was learned.
    """
    points = np.array([(line["step"], line["loss"]) for line in lines if np.isfinite(line.get("loss", np.nan))])
    if len(points) < MIN_POINTS:
        return None
    steps, losses = points.T
    total = steps[-1]
    half = _median(losses[np.abs(steps - total / 2) <= WINDOW / 2 * total])
    end = _median(losses[steps >= (1 - WINDOW) * total])
    learned = chance - end
    if np.isnan(half) or learned <= 0:
        return None
    return {"half": half, "end": end, "share": float((half - end) / learned)}


def _median(losses: np.ndarray) -> float:
    return float(np.median(losses)) if len(losses) else float("nan")
