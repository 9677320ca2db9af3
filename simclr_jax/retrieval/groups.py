"""Group the images of a table: the nearest of some images, near-duplicates, clusters."""

import dataclasses

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from simclr_jax.errors import UserError
from simclr_jax.retrieval.index import Index
from simclr_jax.retrieval.index import import_faiss
from simclr_jax.retrieval.tables import Embeddings

# More pairs of near-duplicates are not kept: the threshold is too low to mean duplicates.
MAX_PAIRS = 50_000_000


@dataclasses.dataclass(frozen=True)
class Group:
    """Some images that belong together.

    Attributes:
      title: for a page.
      rows: int64 `[m]`, their rows in the table.
      similarities: float32 `[m]`, to the image or the centre that the group is about.
      size: the number of images in the group, of which `rows` may be the first.
    """

    title: str
    rows: np.ndarray
    similarities: np.ndarray
    size: int


def nearest(table: Embeddings, index: Index, queries: np.ndarray, titles: list[str], count: int) -> list[Group]:
    """The `count` nearest images of each query, float32 `[q, dim]`, nearest first. A query in the table finds itself first."""
    similarities, rows = index.nearest(queries, min(count, len(table.paths)))
    return [
        Group(title, own_rows[own_rows >= 0], own[own_rows >= 0], int((own_rows >= 0).sum()))
        for title, own, own_rows in zip(titles, similarities, rows, strict=True)
    ]


def duplicates(table: Embeddings, index: Index, similarity: float) -> list[Group]:
    """Groups of images that a chain of pairs with at least this similarity connects; the largest first.

    In each group the image with most near-duplicates comes first, and the similarities are those to it.

    Raises:
      UserError: if there are too many pairs for a useful answer.
    """
    n, found, total = len(table.paths), [], 0
    for queries, rows, _ in index.above(table.vectors, similarity):
        keep = queries < rows
        found.append((queries[keep], rows[keep]))
        total += int(keep.sum())
        if total > MAX_PAIRS:
            raise UserError(
                f"--duplicates={similarity}: more than {MAX_PAIRS:,} pairs are as similar: take a higher value."
            )
    left, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
    graph = sparse.coo_array((np.ones(total, bool), (left, right)), shape=(n, n)).tocsr()
    _, component = csgraph.connected_components(graph, directed=False)
    degree = np.bincount(left, minlength=n) + np.bincount(right, minlength=n)
    order = np.lexsort((np.arange(n), -degree, component))
    ends = np.flatnonzero(np.diff(component[order])) + 1
    groups = []
    for rows in np.split(order, ends):
        if len(rows) > 1:
            similarities = table.vectors[rows] @ table.vectors[rows[0]]
            by_similarity = np.argsort(-similarities[1:], kind="stable") + 1
            rows, similarities = (np.concatenate([part[:1], part[by_similarity]]) for part in (rows, similarities))
            groups.append(Group(f"{len(rows)} near-duplicates", rows, similarities, len(rows)))
    return sorted(groups, key=lambda group: -group.size)


def clusters(table: Embeddings, number: int, count: int, *, seed: int = 0) -> list[Group]:
    """Clusters by spherical k-means, the largest first, each with the `count` images nearest to its centre.

    Args:
      table: the images.
      number: of clusters; empty ones are left out.
      count: images of each.
      seed: for the first centres.

    Raises:
      UserError: if there are fewer images than clusters.
    """
    n, dim = table.vectors.shape
    if number > n:
        raise UserError(f"--clusters={number}: the table has only {n} images.")
    kmeans = import_faiss().Kmeans(dim, number, niter=25, spherical=True, seed=seed, min_points_per_centroid=1)
    kmeans.train(table.vectors)
    similarities, cells = (found[:, 0] for found in kmeans.index.search(table.vectors, 1))
    order = np.lexsort((-similarities, cells))
    groups = []
    for rows in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        title = f"{len(rows)} images, {len(rows) / n:.1%}" + _classes(table, rows)
        groups.append(Group(title, rows[:count], similarities[rows[:count]], len(rows)))
    return sorted(groups, key=lambda group: -group.size)


def _classes(table: Embeddings, rows: np.ndarray) -> str:
    """The most frequent class of some images, for a title; empty without labels."""
    if table.labels is None:
        return ""
    names, counts = np.unique([table.labels[row] for row in rows], return_counts=True)
    return f", {counts.max() / len(rows):.0%} {names[counts.argmax()]}" if names[counts.argmax()] else ""
