"""Score predictions: top-1 and top-5 accuracy, their mean over classes, mean average precision."""

import jax
import numpy as np

from simclr_jax.objectives import metrics as contrastive_metrics

_target_rank = jax.jit(contrastive_metrics.target_rank)  # one small program instead of a dozen


def accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy of class scores.

    Args:
      scores: float `[n, classes]`.
      labels: int `[n]`.

    Returns:
      `top1` and `top5`, fractions of the examples; `mean_per_class`, the mean of the top-1 accuracy of each class that
      occurs; `n`, the number of examples. A tie goes to the lower class, and NaN is never right.

    Example:
      >>> scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
      >>> result = accuracy(scores, np.array([0, 1, 1, 1]))
      >>> result["top1"], round(result["mean_per_class"], 3)
      (0.5, 0.667)
    """
    rank = np.asarray(_target_rank(scores, labels))
    return {
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < 5)),
        "mean_per_class": mean_per_class(rank < 1, labels),
        "n": len(labels),
    }


def mean_per_class(right: np.ndarray, labels: np.ndarray) -> float:
    """The accuracy of each class that occurs, averaged over classes: bool `[n]`, int `[n]` to a number in [0, 1]."""
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the 11-point average precision, as in Pascal VOC 2007 (paper appendix B.8).

    Args:
      scores: float `[n, classes]`.
      labels: int `[n, classes]`: 1 for a class that an example has, 0 for one that it does not have, -1 to ignore the
        example for this class (VOC's difficult objects). Classes without an example are left out.

    Returns:
      A number in [0, 1]. The average precision of a class is the mean, over the recalls 0, 0.1, ..., 1, of the best
      precision at that recall or more.

    Example:
      The positive of this class is ranked second, so its precision is 1/2 at every recall:

      >>> mean_average_precision(np.array([[0.9], [0.8], [0.1]]), np.array([[0], [1], [0]]))
      0.5
    """
    precisions = []
    for number in range(labels.shape[1]):
        labelled = labels[:, number] >= 0
        ranked = labels[labelled, number][np.argsort(-scores[labelled, number], kind="stable")]
        if not ranked.any():
            continue
        hits = np.cumsum(ranked)
        precision, recall = hits / np.arange(1, len(ranked) + 1), hits / hits[-1]
        points = (np.max(precision[recall >= point - 1e-9], initial=0.0) for point in np.linspace(0, 1, 11))
        precisions.append(np.mean(list(points)))
    return float(np.mean(precisions))
