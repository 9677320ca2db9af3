"""What representations say about views: which image a view is of, and how close the views of an image are."""

import numpy as np

from simclr_jax.diagnosis.spectrum import entropy_rank
from simclr_jax.diagnosis.spectrum import normalised

# Added to the covariance within images, so that it can be inverted.
LIDAR_DELTA = 1e-4
# Equal representations have equal similarities up to rounding, and rounding must not decide who is nearest.
ROUNDING = 1e-6


def alignment(views: np.ndarray) -> float:
    """The mean squared distance of two views of an image on the sphere (Wang and Isola 2020, arXiv 2005.10242; alpha = 2).

    0 where the views of each image are the same; 2 for independent ones around no common direction.

    Args:
      views: `[n, views, d]`, at least two views.
    """
    unit = normalised(views)
    number = unit.shape[1]
    # The mean over ordered pairs of different views: those of equal views have distance 0.
    pairs = 2 - 2 * np.sum(unit.mean(axis=1) ** 2, axis=-1)
    return float(max(0.0, pairs.mean() * number / (number - 1)))


def uniformity(features: np.ndarray) -> float:
    """How evenly representations cover the sphere (Wang and Isola 2020, arXiv 2005.10242; t = 2).

    The logarithm of the mean of `exp(-2 |x - y|^2)` over pairs: 0 where all are the same; about -4, the least possible, for
    a uniform distribution in many dimensions.

    Args:
      features: `[n, d]`, at least two.
    """
    unit = normalised(features)
    upper = np.triu_indices(len(unit), k=1)
    squared = np.maximum(0.0, 2 - 2 * (unit @ unit.T)[upper])
    return float(np.log(np.exp(-2 * squared).mean()))


def lidar(views: np.ndarray) -> float:
    """LiDAR: the effective rank of the linear discriminants that tell the images apart (Thilak et al. 2023, arXiv 2312.04000).

    Every image is a class, its views are the examples. With the covariance B of the means of the classes, and W within the
    classes, it is the effective rank of W^(-1/2) B W^(-1/2). Directions that only augmentation varies do not count.

    Args:
      views: `[n, views, d]`, at least two views. Scaled to a mean variance of 1 before `LIDAR_DELTA` is added to W.
    """
    views = views.astype(np.float64)
    features = views.shape[-1]
    total = views.reshape(-1, features).var(axis=0).mean()
    if not total > 0:
        return 0.0
    views = (views - views.mean(axis=(0, 1))) / np.sqrt(total)
    means = views.mean(axis=1)
    rest = (views - means[:, None]).reshape(-1, features)
    between = means.T @ means / len(means)
    within = rest.T @ rest / len(rest) + LIDAR_DELTA * np.eye(features)
    values, vectors = np.linalg.eigh(within)
    whitened = vectors / np.sqrt(values)
    return entropy_rank(np.maximum(0.0, np.linalg.eigvalsh(whitened.T @ between @ whitened)))


def recognised(queries: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Which queries have their own image as the nearest one, by cosine similarity: the question "which image is this?".

    A tie counts as not recognised, so that collapsed representations recognise nothing.

    Args:
      queries: `[n, d]`, a view of each image.
      images: `[n, d]`.

    Returns:
      bool `[n]`. Chance is 1 / n.
    """
    similarities = normalised(queries) @ normalised(images).T
    own = np.diag(similarities).copy()
    np.fill_diagonal(similarities, -np.inf)
    return own > similarities.max(axis=1) + ROUNDING


def neighbour_overlap(one: np.ndarray, other: np.ndarray, number: int) -> np.ndarray:
    """The share of an image's nearest neighbours by one representation that are its neighbours by another one too.

    Args:
      one, other: `[n, d]` and `[n, e]`: two representations of the same images, or the same one of two views of each.
      number: of neighbours, below n.

    Returns:
      float64 `[n]`, in [0, 1]. Chance is number / (n - 1). 0 where all other images are equally near: none is a neighbour.
    """
    (first, some), (second, others) = (_neighbours(features, number) for features in (one, other))
    shared = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
    return np.where(some & others, shared, 0.0)


def _neighbours(features: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the nearest other images, `[n, number]`, and whether some are nearer than other ones, bool `[n]`."""
    unit = normalised(features)
    similarities = unit @ unit.T
    lowest = similarities.min(axis=1)
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, number - 1, axis=1)[:, :number]
    return nearest, similarities.max(axis=1) > lowest + ROUNDING
