"""Nearest neighbours: classify each test image by its closest training images. Nothing is trained.

    python -m simclr_jax.knn --pretrained=runs/digits --workdir=runs/digits_knn

The `neighbours` nearest training images by cosine similarity s vote with the weight exp(s / temperature) (Wu et al. 2018,
section 3.4). Writes config.json, results.json, embedding_map.png (a 2-D map of the test images) and neighbours.png (some
test images beside their nearest training images). Without labels, as in any folder of photographs, it draws the pictures only:
of the images of the test folder or, without one, of all images.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("knn")  # answers --help and mistakes before the imports below; does not return


import logging
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import objectives
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.evaluation import label_subsets
from simclr_jax.evaluation.forward import Outputs
from simclr_jax.evaluation.setup import Setup
from simclr_jax.evaluation.setup import set_up
from simclr_jax.reporting import pictures
from simclr_jax.runtime import distributed
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")

# Test images whose similarities to all training images are computed at once.
CHUNK = 1024
# Neighbours beside each test image in the picture.
SHOWN_NEIGHBOURS = 8


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Votes, draws the map, and returns the content of results.json."""
    setup = set_up(config, workdir, pretrained, config_lib.knn(), monitor, unlabelled=True)
    config = setup.config
    train = setup.features(setup.train)
    test = train if setup.test is setup.train else setup.features(setup.test)
    if setup.train.class_names is None:
        return _only_pictures(setup, train, test)

    def evaluate_draw(rows: np.ndarray, seed: int, folder: epath.Path) -> dict:
        del seed
        readable = np.isin(train.index, rows)
        votes = weighted_votes(
            train.values[readable],
            train.labels[readable],
            test.values,
            setup.num_classes,
            neighbours=config.neighbours,
            temperature=config.temperature,
        )
        unreadable = train.unreadable + test.unreadable
        return setup.score(votes, test, folder) | {"step": setup.pretrained_step, "bad_images": unreadable}

    results = label_subsets.evaluate_each(setup, evaluate_draw) | {"features": config.features, "init": config.init}
    _draw(setup, train, test)
    writers.write_results(workdir, results)
    log.info(
        "%d-NN of %s: %.1f %% top-1 of %d.", config.neighbours, config.features, 100 * results["top1"], results["n"]
    )
    return results


def _only_pictures(setup: Setup, train: Outputs, test: Outputs) -> dict:
    """The results of images without labels: there is nothing to score."""
    _draw(setup, train, test)
    setup.write_config()
    results: dict[str, Any] = {"top1": None, "top5": None, "mean_per_class": None, "n": len(test.values), "draws": []}
    results |= {"step": setup.pretrained_step, "seconds": time.monotonic() - setup.began}
    results |= {"features": setup.config.features, "init": setup.config.init, "bad_images": test.unreadable}
    writers.write_results(setup.workdir, results)
    log.info("%s has no labels, so there is no accuracy. The pictures are in %s.", setup.train.name, setup.workdir)
    return results


def _draw(setup: Setup, train: Outputs, test: Outputs) -> None:
    """Draws embedding_map.png and neighbours.png."""
    if not distributed.is_primary():
        return
    config = setup.config
    shown = np.random.default_rng(config.seed).permutation(len(test.values))
    single = all(isinstance(source, sources.RandomAccess) for source in (setup.train, setup.test))
    with working("drawing the map and the neighbours"):
        _draw_map(setup, test, shown, single)
        if config.shown_images and single:
            _show_neighbours(setup, train, test, shown[: config.shown_images])
    for name in ("embedding_map", "neighbours"):
        writers.show_picture(setup.workdir, name, setup.pretrained_step, setup.monitor.trackers)
    if config.shown_images and not single:
        log.info("No neighbours.png: single images of a data set that is streamed cannot be looked up.")


def _draw_map(setup: Setup, test: Outputs, shown: np.ndarray, single: bool) -> None:
    """Draws embedding_map.png of the rows `shown`; `single`: whether single images can be looked up."""
    config = setup.config
    if config.map_points and len(shown) > 2:
        points, picture = shown[: config.map_points], setup.workdir / "embedding_map.png"
        if setup.train.class_names is not None:
            pictures.embedding_map(test.values[points], test.labels[points], setup.test.class_names, picture)
        else:
            seen = test.index[points[: pictures.THUMBNAILS if single else 0]]
            some = pipeline.look_up(setup.test, seen, config.data) if single else seen
            pictures.unlabelled_map(test.values[points], some, picture)


def _show_neighbours(setup: Setup, train: Outputs, test: Outputs, rows: np.ndarray) -> None:
    """Draws some test images, each beside the training images that are nearest to it, to neighbours.png."""
    seen, shown = (np.asarray(objectives.l2_normalize(values)) for values in (train.values, test.values[rows]))
    similarity = shown @ seen.T
    if setup.test is setup.train:
        similarity[np.arange(len(rows)), rows] = -np.inf  # an image is not its own neighbour
    number = min(SHOWN_NEIGHBOURS, len(seen) - (setup.test is setup.train))
    nearest = np.argsort(-similarity, axis=1)[:, :number]
    names, data = setup.test.class_names, setup.config.data

    def name(label: int) -> str:
        return names[label] if names is not None else ""

    pictures.neighbours(
        pipeline.look_up(setup.test, test.index[rows], data),
        [name(label) for label in test.labels[rows]],
        pipeline.look_up(setup.train, train.index[nearest], data),
        [[name(label) for label in of_one] for of_one in train.labels[nearest]],
        setup.workdir / "neighbours.png",
    )


def weighted_votes(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    *,
    neighbours: int,
    temperature: float,
) -> np.ndarray:
    """Votes of the nearest training images, added up by class.

    Args:
      train: float32 `[n, dim]`.
      train_labels: int32 `[n]`.
      test: float32 `[m, dim]`.
      num_classes: of the labels.
      neighbours: how many vote; at most n do.
      temperature: a neighbour of cosine similarity s has the weight exp((s - t) / temperature), where t is the similarity of
        the nearest one. Its own weight is 1, so that no temperature makes all weights underflow to 0.

    Returns:
      float32 `[m, num_classes]`.
    """
    reference = objectives.l2_normalize(jnp.asarray(train))
    neighbours = min(neighbours, len(train))

    @jax.jit
    def vote(chunk: jax.Array) -> jax.Array:
        similarity = jnp.dot(objectives.l2_normalize(chunk), reference.T, precision=jax.lax.Precision.HIGHEST)
        nearest, index = jax.lax.top_k(similarity, neighbours)
        weights = jnp.exp((nearest - nearest[:, :1]) / temperature)  # top_k sorts: the first is the largest
        return jnp.sum(weights[..., None] * jax.nn.one_hot(jnp.asarray(train_labels)[index], num_classes), axis=1)

    votes = []
    with working("finding nearest neighbours", len(test), "images") as work:
        for start in range(0, len(test), CHUNK):
            votes.append(np.asarray(vote(test[start : start + CHUNK])))
            work.did(len(votes[-1]))
    return np.concatenate(votes)
