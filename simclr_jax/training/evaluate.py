"""A network over every example of a source, once; and what predictions are worth."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.data import pipeline
from simclr_jax.data.sources import Source
from simclr_jax.errors import Preempted
from simclr_jax.objectives import metrics as contrastive_metrics
from simclr_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a network says of the readable examples of a source, in the order of the source."""

    values: np.ndarray  # float32 [n, ...]
    labels: np.ndarray  # int32 [n], or [n, classes] where an example may have several
    index: np.ndarray  # int64 [n]: the number in the source
    unreadable: int


def outputs_of(
    forward: Callable,
    params: Any,
    batch_stats: Any,
    source: Source,
    *,
    data: ConfigDict,
    batch_size: int,
    mesh: Mesh,
    stop: Callable[[], bool],
) -> Outputs:
    """Runs `forward` (of `steps.make_forward`) over a source; each example counts exactly once, on however many hosts.

    Raises:
      Preempted: if the run is asked to stop meanwhile; whatever was trained is saved already.
    """
    steps = -(-source.num_examples // batch_size)
    share = pipeline.local_share(mesh, batch_size, num_steps=steps)
    bad_images = pipeline.BadImages(source, data.max_bad_fraction)
    batches = pipeline.eval_batches(
        source, size=data.image_size, crop=data.eval_crop, share=share, bad_images=bad_images
    )
    parts = []
    for batch in batches:
        results = jax.device_get(forward(params, batch_stats, sharding.to_global(batch, mesh)))
        mask = results.pop("mask")
        parts.append({key: value[mask] for key, value in results.items()})
        if stop():
            raise Preempted("asked to stop during an evaluation; the same command runs it again.")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    ranked = np.argsort(joined["index"])
    joined = {key: value[ranked] for key, value in joined.items()}
    return Outputs(joined["output"], joined["label"], joined["index"], source.num_examples - len(ranked))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What class scores are worth.

    Args:
      scores: float `[n, classes]`.
      labels: int `[n]`.

    Returns:
      `top1` and `top5`, shares of the examples; `mean_per_class`, the mean of the classes' own top-1, over the classes
      that occur; `n`, the number of examples.
    """
    rank = np.asarray(contrastive_metrics.target_rank(scores, labels))
    return {
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < 5)),
        "mean_per_class": mean_per_class(rank < 1, labels),
        "n": len(labels),
    }


def mean_per_class(right: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the share of their examples that are right: bool `[n]`, int `[n]`."""
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the 11-point average precision, as in Pascal VOC 2007 (paper appendix B.8).

    Args:
      scores: float `[n, classes]`.
      labels: int `[n, classes]`: 1 for the classes that an example is of, 0 for others, -1 where it does not count (VOC's
        difficult objects). Classes without an example are left out.

    Returns:
      In [0, 1]. Of a class: the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or more.
    """
    found = []
    for number in range(labels.shape[1]):
        counts = labels[:, number] >= 0
        ranked = labels[counts, number][np.argsort(-scores[counts, number], kind="stable")]
        if not ranked.any():
            continue
        hits = np.cumsum(ranked)
        precision, recall = hits / np.arange(1, len(ranked) + 1), hits / hits[-1]
        points = (np.max(precision[recall >= point - 1e-9], initial=0.0) for point in np.linspace(0, 1, 11))
        found.append(np.mean(list(points)))
    return float(np.mean(found))
