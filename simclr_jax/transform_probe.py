"""Predict from representations how an image was transformed (paper section 4.2, table 3).

    python -m simclr_jax.transform_probe --pretrained=runs/digits --workdir=runs/digits_transforms
    python -m simclr_jax.transform_probe ... --config.features=z      # z keeps less of this information than h

For each of `config.transforms`, training and test images are shown in every form: unchanged or greyscale; rotated by 0, 90,
180 or 270 degrees; unchanged or with noise; unchanged or Sobel-filtered. A small network learns to recognise the form from
the features of the frozen encoder. Labels are not used. Writes config.json and results.json.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("transform_probe")  # answers --help and mistakes before the imports below; does not return


from collections.abc import Callable
import functools
import logging
import time
import warnings

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.augment import jax_ops
from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.evaluation.setup import set_up
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")

Form = Callable[[jax.Array], jax.Array]


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Trains a classifier for each transformation and returns the content of results.json."""
    began = time.monotonic()
    setup = set_up(config, workdir, pretrained, config_lib.transform_probe(), monitor, train_labels=False)
    config = setup.config
    number, forms_of = min(config.train_images, setup.train.num_examples), forms(config)
    least = least_images(config)
    if number < least:
        raise UserError(
            f"{number} training images are too few to learn from ({setup.train.name} has {setup.train.num_examples}, "
            f"config.train_images is {config.train_images}): config.classifier={config.classifier} needs at least {least} for "
            f"config.transforms={config.transforms!r}."
        )
    setup.write_config()
    rows = np.sort(np.random.default_rng(config.seed).permutation(setup.train.num_examples)[:number])
    train = setup.train if number == setup.train.num_examples else setup.train.subset(rows)

    @functools.cache  # several transformations need the features of the unchanged images
    def features_of(form: Form) -> tuple[np.ndarray, np.ndarray]:
        return setup.features(train, form).values, setup.features(setup.test, form).values

    results = {}
    for name in config.transforms.split():
        parts = [features_of(form) for form in forms_of[name]]
        seen, unseen = ([part[side] for part in parts] for side in (0, 1))
        if len(seen[0]) < least:
            raise UserError(
                f"only {len(seen[0])} training images of {train.name} can be read, but at least {least} are needed."
            )
        if monitor.poll():
            raise Preempted("asked to stop between transformations; the same command begins again.")
        with working(f"learning to recognise {name}"):
            results[name] = accuracy(seen, unseen, config)
        log.info("%s from %s: %.1f %% (chance %.0f %%).", name, config.features, 100 * results[name], 100 / len(parts))
    results |= {
        "features": config.features,
        "init": config.init,
        "n": setup.test.num_examples,
        "step": setup.pretrained_step,
        "seconds": time.monotonic() - began,
    }
    writers.write_results(workdir, results)
    return results


def forms(config: ConfigDict) -> dict[str, list[Form]]:
    """For each transformation, the forms of an image: functions of float images `[batch, size, size, 3]`."""

    def unchanged(images: jax.Array) -> jax.Array:
        return images

    def rotated(turns: int) -> Form:
        return lambda images: jax_ops.rotate(images, jnp.full(len(images), turns))

    def noisy(images: jax.Array) -> jax.Array:
        # Each image has its own noise, the same in every pass: its pixels are the seed.
        pixels = jnp.round(images * 255).astype(jnp.uint32).reshape(len(images), -1)
        seeds = jnp.sum(pixels * (2 * jnp.arange(pixels.shape[1], dtype=jnp.uint32) + 1), axis=1)
        normals = jax_ops.normals(seeds, images.shape[1:])
        return jax_ops.clip(jax_ops.noise(images, config.noise_std, normals))

    return {
        "grayscale": [unchanged, jax_ops.grayscale],
        "rotate": [unchanged, *(rotated(turns) for turns in (1, 2, 3))],
        "noise": [unchanged, noisy],
        "sobel": [unchanged, lambda images: jax_ops.clip(jax_ops.sobel(images))],
    }


def least_images(config: ConfigDict) -> int:
    """How many training images the classifiers need: for early stopping, "mlp" holds out a tenth of its examples, rounded up.

    Two examples are held out at least, and, where it learns to recognise one of two forms, one of each.
    """
    if config.classifier != "mlp":
        return 1
    four_forms_only = all(len(forms(config)[name]) == 4 for name in config.transforms.split())
    return 3 if four_forms_only else 6  # 12 examples


def accuracy(train: list[np.ndarray], test: list[np.ndarray], config: ConfigDict) -> float:
    """The accuracy of a classifier that predicts which element of `test` a row comes from.

    Args:
      train, test: features of each form, float `[n, dim]`.
      config: `classifier`, `hidden` and `seed`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if config.classifier == "mlp":
        hidden = (config.hidden,)
        classifier = MLPClassifier(hidden, early_stopping=True, max_iter=200, random_state=config.seed)
    else:
        classifier = LogisticRegression(max_iter=1000)
    classifier = make_pipeline(StandardScaler(), classifier)

    def rows(parts):
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(*rows(train))
    return float(classifier.score(*rows(test)))
