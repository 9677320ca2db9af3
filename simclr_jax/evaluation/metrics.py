"""Score predictions: top-1, top-5, mean over classes, mean average precision."""

import numpy as np

from simclr_jax.objectives import metrics as contrastive_metrics


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
