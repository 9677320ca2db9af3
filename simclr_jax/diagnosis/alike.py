"""Which images a network takes for alike: the most similar pairs, where duplicates are, and clusters with typical images."""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from simclr_jax.diagnosis.spectrum import normalised

# A cluster has 25 images on average, if that makes at least 2 and at most 12 clusters.
IMAGES_EACH, MOST_CLUSTERS = 25, 12


@dataclasses.dataclass(frozen=True)
class Alike:
    """Some images that belong together: a title, and their rows, int64 `[m]`, the most typical ones first."""

    title: str
    rows: np.ndarray


def centred(features: np.ndarray) -> np.ndarray:
    """float64 `[n, d]` on the sphere around the mean: what all images have in common makes no two of them alike."""
    return normalised(features - features.mean(axis=0, dtype=np.float64))


def similar_pairs(features: np.ndarray, number: int) -> list[Alike]:
    """The pairs of images with the largest cosine similarity, the largest first; each image is in one pair at most.

    Args:
      features: `[n, d]`.
      number: of pairs at most.
    """
    unit = centred(features)
    similarities = np.triu(unit @ unit.T, k=1)
    similarities[np.tril_indices(len(unit))] = -np.inf
    pairs: list[Alike] = []
    while len(pairs) < number and np.isfinite(similarities).any():
        one, other = np.unravel_index(similarities.argmax(), similarities.shape)
        pairs.append(Alike(f"{similarities[one, other]:.3f}", np.array([one, other])))
        for row in (one, other):
            similarities[row, :] = similarities[:, row] = -np.inf
    return pairs


def clusters(features: np.ndarray, seed: int = 0) -> list[Alike]:
    """Clusters by k-means on the sphere, the largest first; in each, the images nearest to its centre first.

    Args:
      features: `[n, d]`, n >= 2.
      seed: for the first centres.
    """
    # joblib, below scikit-learn, asks for the number of physical cores by a command that small machines lack.
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(os.cpu_count()))
    from sklearn.cluster import KMeans

    unit = centred(features)
    number = min(max(len(unit) // IMAGES_EACH, 2), MOST_CLUSTERS, len(np.unique(unit, axis=0)))
    kmeans = KMeans(number, n_init=4, random_state=seed).fit(unit)
    distances = kmeans.transform(unit)
    found = []
    for cluster in range(number):
        rows = np.flatnonzero(kmeans.labels_ == cluster)
        rows = rows[np.argsort(distances[rows, cluster], kind="stable")]
        found.append(Alike(f"{len(rows)} images", rows))
    return sorted(found, key=lambda one: -len(one.rows))


def pictures_of(groups: Sequence[Alike], images: np.ndarray, columns: int) -> list[tuple[str, np.ndarray]]:
    """Title and first images of each group, for `reporting.pictures.groups`; images uint8 `[n, size, size, 3]`."""
    return [(group.title, images[group.rows[:columns]]) for group in groups]
