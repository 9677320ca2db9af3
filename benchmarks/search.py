"""Measure `simclr_jax.retrieval.index`: time of a query and recall of the 10 nearest, against exact search.

    python -m benchmarks.search                                # a million vectors of dimension 512: about 5 GB of memory
    python -m benchmarks.search --vectors=100000 --dim=128     # a quick try

Vectors are drawn like embeddings of images: most of their variance is in few directions, and they are in clusters. 2,000
centres are drawn in a subspace of 64 dimensions; each vector is a centre, a deviation in the subspace, by default half as large
(--deviation=1: clusters that overlap), and noise in all dimensions. The queries are other vectors of the same kind.

For each number of probed cells it prints recall, and milliseconds of a query: one at a time and 1,000 at once; elapsed time,
and beside it the time of the CPU, which grows less when other programs use the machine.
"""

import argparse
import time

import numpy as np

from simclr_jax.retrieval import index as index_lib
from simclr_jax.retrieval.index import Index

CLUSTERS, SUBSPACE, NOISE = 2000, 64, 0.02
COUNT = 10
CHUNK = 50_000


def draw(vectors: int, dim: int, deviation: float, seed: int) -> np.ndarray:
    """Unit vectors, float32 `[vectors, dim]`. The clusters do not depend on the seed."""
    fixed, random = np.random.default_rng(0), np.random.default_rng([1, seed])
    centres = fixed.standard_normal((CLUSTERS, SUBSPACE), np.float32)
    into_space = np.linalg.qr(fixed.standard_normal((dim, SUBSPACE), np.float32))[0].T
    drawn = np.empty((vectors, dim), np.float32)
    for start in range(0, vectors, CHUNK):
        part = drawn[start : start + CHUNK]
        inside = centres[random.integers(CLUSTERS, size=len(part))]
        inside += deviation * random.standard_normal(inside.shape, np.float32)
        part[:] = inside @ into_space + NOISE * random.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return drawn


class Clock:
    """`with Clock() as clock:` measures elapsed and CPU seconds of all threads."""

    def __enter__(self) -> "Clock":
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    def ms(self, queries: int) -> str:
        return f"{1000 * self.wall / queries:8.2f} ({1000 * self.cpu / queries:7.2f})"


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours `[queries, COUNT]` that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))


def measure(index: Index, queries: np.ndarray, singly: int, exact: np.ndarray | None, name: str) -> np.ndarray:
    """Prints a line, and returns the rows found for all queries."""
    index.nearest(queries[:2], COUNT)
    with Clock() as one:
        for row in range(singly):
            index.nearest(queries[row : row + 1], COUNT)
    with Clock() as batched:
        rows = index.nearest(queries, COUNT)[1]
    found = 1.0 if exact is None else recall(rows, exact)
    print(f"{name:>9} {found:10.4f} {one.ms(singly)} {batched.ms(len(queries))}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000, help="at once")
    parser.add_argument("--singly", type=int, default=200, help="of them, one at a time")
    parser.add_argument(
        "--deviation", type=float, default=0.5, help="of the vectors of a cluster; of the centres it is 1"
    )
    parser.add_argument("--probes", default="8,16,32,64", help="numbers of cells to look into")
    args = parser.parse_args()
    vectors, queries = (
        draw(args.vectors, args.dim, args.deviation, 0),
        draw(args.queries, args.dim, args.deviation, 1),
    )
    print(f"{args.vectors:,} vectors of {args.dim} numbers, {args.queries} queries, {COUNT} neighbours")
    print(f"{'probes':>9} {'recall@10':>10} {'ms one at a time (CPU)':>18} {'ms batched (CPU)':>18}")
    exact = measure(Index(vectors, exact=True), queries, min(10, args.singly), None, "exact")
    with Clock() as build:
        index = Index(vectors, exact=False)
    print(
        f"built in {build.wall:.0f} s ({build.cpu:.0f} s of CPU); the default probes {index_lib.PROBES} cells",
        flush=True,
    )
    for probes in map(int, args.probes.split(",")):
        index.probes = probes
        measure(index, queries, args.singly, exact, str(probes))


if __name__ == "__main__":
    main()
