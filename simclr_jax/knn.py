"""Nearest neighbours: how well a test image's class is told by its closest training images. Nothing is trained.

    python -m simclr_jax.knn --pretrained=runs/digits --workdir=runs/digits_knn

Weighted vote among the `neighbours` nearest by cosine similarity s, each with the weight exp(s / temperature) (Wu et
al. 2018, section 3.4). Writes config.json, results.json and embedding_map.png, a 2-D map of the test images.
"""

import logging

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import cli
from simclr_jax import config as config_lib
from simclr_jax import evaluation
from simclr_jax import objectives
from simclr_jax import parallel
from simclr_jax import pictures
from simclr_jax.operations import Operations
from simclr_jax.training import evaluate
from simclr_jax.training import metrics

log = logging.getLogger("simclr_jax")

# Test images whose similarities to all training images are computed at once.
CHUNK = 1024


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, operations: Operations) -> dict:
    """Votes, draws the map, and returns what stands in results.json."""
    setup = evaluation.set_up(config, workdir, pretrained, config_lib.knn(), operations)
    train, test = setup.features(setup.train), setup.features(setup.test)

    def evaluate_draw(rows: np.ndarray, seed: int, folder: epath.Path) -> dict:
        del seed, folder
        readable = np.isin(train.index, rows)
        votes = weighted_votes(
            train.values[readable],
            train.labels[readable],
            test.values,
            setup.num_classes,
            neighbours=config.neighbours,
            temperature=config.temperature,
        )
        results = evaluate.accuracy(votes, test.labels)
        return results | {"step": setup.pretrained_step, "bad_images": train.unreadable + test.unreadable}

    results = evaluation.run_draws(setup, evaluate_draw) | {"features": config.features, "init": config.init}
    if config.map_points and parallel.is_primary():
        shown = np.random.default_rng(config.seed).permutation(len(test.values))[: config.map_points]
        picture = workdir / "embedding_map.png"
        pictures.embedding_map(test.values[shown], test.labels[shown], setup.test.class_names, picture)
    metrics.write_results(workdir, results)
    log.info(
        "%d-NN of %s: %.1f %% top-1 of %d.", config.neighbours, config.features, 100 * results["top1"], results["n"]
    )
    return results


def weighted_votes(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    *,
    neighbours: int,
    temperature: float,
) -> np.ndarray:
    """The classes' votes for each test image.

    Args:
      train: float32 `[n, dim]`.
      train_labels: int32 `[n]`.
      test: float32 `[m, dim]`.
      num_classes: of the labels.
      neighbours: how many vote; at most n do.
      temperature: a neighbour of cosine similarity s has the weight exp((s - 1) / temperature).

    Returns:
      float32 `[m, num_classes]`.
    """
    train = objectives.l2_normalize(jnp.asarray(train))
    neighbours = min(neighbours, len(train))

    @jax.jit
    def vote(chunk: jax.Array) -> jax.Array:
        similarity = jnp.dot(objectives.l2_normalize(chunk), train.T, precision=jax.lax.Precision.HIGHEST)
        nearest, index = jax.lax.top_k(similarity, neighbours)
        weights = jnp.exp((nearest - 1.0) / temperature)
        return jnp.sum(weights[..., None] * jax.nn.one_hot(jnp.asarray(train_labels)[index], num_classes), axis=1)

    return np.concatenate([np.asarray(vote(test[start : start + CHUNK])) for start in range(0, len(test), CHUNK)])


BINARY = cli.Binary(run, default_config="knn.py", pretrained=True)

if __name__ == "__main__":
    BINARY.main()
