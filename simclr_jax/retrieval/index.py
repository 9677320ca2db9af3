"""Find nearest vectors with faiss: exactly where that is fast, otherwise with an inverted file (IVF)."""

from collections.abc import Iterator
import logging
import time
from typing import Any

import numpy as np

from simclr_jax.runtime import extras

log = logging.getLogger("simclr_jax")

# An exact search reads every number once: at most this many take under 50 ms on 2 cores.
EXACT_NUMBERS = 30_000_000
# Cells of the inverted file that a query looks into, and examples a cell to place the cells. See docs/performance.md.
PROBES, TRAINING_ROWS = 32, 40
# Queries at a time.
CHUNK = 4096
# More than float32 loses in the similarity of a vector of some thousand values to itself.
ROUNDING = 4e-6


def import_faiss() -> Any:
    """The library.

    Raises:
      UserError: if it is not installed.
    """
    return extras.load("faiss", "searching needs faiss, which is not installed", "search")


class Index:
    """An index of unit vectors by cosine similarity.

    Args:
      vectors: float32 `[n, dim]`, each of length 1.
      exact: whether to compare with all vectors; None: if `n * dim` is at most `EXACT_NUMBERS`.
    """

    def __init__(self, vectors: np.ndarray, *, exact: bool | None = None):
        faiss = import_faiss()
        n, dim = vectors.shape
        self.exact = n * dim <= EXACT_NUMBERS if exact is None else exact
        flat, began = faiss.IndexFlatIP(dim), time.monotonic()
        if self.exact:
            self._index = flat
        else:
            cells = int(4 * np.sqrt(n))
            self._index = faiss.IndexIVFFlat(flat, dim, cells, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.niter = 10
            rows = np.random.default_rng(0).permutation(n)[: TRAINING_ROWS * cells]
            self._index.train(vectors[np.sort(rows)])
            self.probes = min(PROBES, cells)
        self._index.add(vectors)
        if not self.exact:
            log.info("An index of %d vectors was built in %.0f s.", n, time.monotonic() - began)

    @property
    def probes(self) -> int:
        """How many cells a query looks into; 0 where the search is exact."""
        return 0 if self.exact else self._index.nprobe

    @probes.setter
    def probes(self, probes: int) -> None:
        if not self.exact:
            self._index.nprobe = probes

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` nearest rows of each query, nearest first.

        Args:
          queries: float32 `[q, dim]`, each of length 1.
          count: neighbours of each.

        Returns:
          Similarities, float32 `[q, count]`, and rows, int64 `[q, count]`. The row is -1 where there are fewer.
        """
        return self._index.search(np.ascontiguousarray(queries), count)

    def above(self, queries: np.ndarray, similarity: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All pairs (query, row) that are at least as similar as `similarity`, for a chunk of queries at a time.

        For 1 the rounding of float32 is allowed for: the similarity of a vector to itself may be less.

        Yields:
          Numbers of queries, rows, and similarities, each `[pairs]`.
        """
        # The index takes those above a limit.
        limit = float(np.nextafter(np.float32(similarity), np.float32(-2))) if similarity < 1 else 1 - ROUNDING
        for start in range(0, len(queries), CHUNK):
            chunk = np.ascontiguousarray(queries[start : start + CHUNK])
            limits, similarities, rows = self._index.range_search(chunk, limit)
            yield start + np.repeat(np.arange(len(chunk)), np.diff(limits).astype(np.int64)), rows, similarities
