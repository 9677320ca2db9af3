"""How many dimensions representations use: effective rank, spectrum and deviation per feature."""

import numpy as np

# Keeps the logarithm of an empty direction finite, as in the papers.
EPSILON = 1e-7


def entropy_rank(weights: np.ndarray) -> float:
    """The effective rank of a spectrum: the exponential of the entropy of its normalised values.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality". d equal weights have d, one has 1.

    Args:
      weights: not negative, `[k]`. All zero, as of representations that do not differ, they have rank 0.
    """
    total = weights.sum()
    if not total > 0:
        return 0.0
    shares = weights / total + EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def rankme(features: np.ndarray) -> float:
    """RankMe, the effective rank of the matrix of representations (Garrido et al. 2023, arXiv 2210.02885, equation 1).

    As in the paper the representations are not centred, so a collapse to one vector has 1.

    Args:
      features: `[n, d]`; n well above d, since the rank is at most n.
    """
    return entropy_rank(np.linalg.svd(features.astype(np.float64), compute_uv=False))


def spectrum(features: np.ndarray) -> np.ndarray:
    """The share of the variance in each principal direction, in descending order: `[n, d]` to `[min(n, d)]`, of sum 1.

    All zero where the representations do not differ.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    total = variances.sum()
    rounding = np.finfo(np.float32).eps ** 2 * np.sum(np.square(features, dtype=np.float64))
    return variances / total if total > rounding else np.zeros_like(variances)


def feature_deviation(features: np.ndarray) -> float:
    """The standard deviation of a feature of the l2-normalised representations, times sqrt(d), mean over the features.

    1 where the representations fill the sphere, 0 where all are the same: complete collapse (Chen and He 2021,
    arXiv 2011.10566, section 4.1).

    Args:
      features: `[n, d]`.
    """
    unit = normalised(features)
    return float(unit.std(axis=0).mean() * np.sqrt(features.shape[1]))


def normalised(features: np.ndarray) -> np.ndarray:
    """l2-normalised in float64, `[..., d]`; a vector of zeros stays one."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
