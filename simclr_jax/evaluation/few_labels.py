"""Fine-tune on few labels: start from the linear probe, and choose the learning rate on held-out labels.

The random classifier that the paper starts from sends large, useless gradients into the encoder, which distort what it has
learned before the classifier is any good. Starting from the classifier of a linear probe avoids that ("LP-FT", Kumar et al.
2022, arXiv 2202.10054). With BatchNorm's statistics frozen as well, a learning rate of 0 is the frozen probe itself, so a
small one is never far below it.
"""

import dataclasses
import functools
import logging
from typing import Any

from etils import epath
import jax
import numpy as np

from simclr_jax.errors import NonFiniteLoss
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation import supervised
from simclr_jax.evaluation.forward import Outputs
from simclr_jax.evaluation.setup import Setup
from simclr_jax.runtime import distributed
from simclr_jax.runtime import sharding
from simclr_jax.workdir import runs
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")

# A class without a labelled image gets the lowest bias of the others, less this. A probe would give it -inf, for ever.
BELOW_OTHERS = 10.0

# To choose from by `config.rates_by_labels`: with BatchNorm's statistics frozen, and otherwise.
FROZEN_RATES, RATES = [1e-5, 1e-4, 1e-3, 1e-2], [1e-4, 1e-3, 3e-3, 1e-2]


class FineTuning:
    """Fine-tuning, or training from scratch, on any number of label subsets.

    Args:
      setup: of the evaluation; its config is one of `simclr_jax.finetune`.
    """

    def __init__(self, setup: Setup):
        config = setup.config
        self.setup = setup
        self.pretrained = config.init == "pretrained"
        self.from_probe = self.pretrained and config.init_classifier == "probe"

    def run(self, rows: np.ndarray, seed: int, workdir: epath.Path) -> dict[str, Any]:
        """Trains on some rows of the training source and tests; for `label_subsets.evaluate_each`.

        Args:
          rows: of the training source, int `[labels]`.
          seed: of the order, the augmentation, the held-out labels and, unless it is a probe, the initial classifier.
          workdir: for checkpoints and metrics.

        Returns:
          The accuracy on the test images; `learning_rate`, and in `held_out` the top-1 of each that was tried.
        """
        training = self._training(len(rows))
        recipe = training.recipe(len(rows))
        log.info(
            "%d labels: %d steps of %d images%s.",
            len(rows),
            recipe.total_steps,
            recipe.config.batch_size,
            f", by config.min_steps: config.epochs={self.setup.config.epochs:g} are fewer"
            if recipe.total_steps == self.setup.config.min_steps > 0
            else "",
        )
        features = self._features(rows) if self.from_probe else None
        rate, found = self._choose_rate(rows, seed, workdir, recipe, features)
        classifier = self._probe(features, rows, seed)
        state, bad_images = training.train(
            rows, seed, workdir, recipe=recipe, classifier=classifier, learning_rate=rate
        )
        chosen = {"learning_rate": rate or self.setup.config.optimizer.learning_rate, "held_out": found}
        return training.test(state, workdir, bad_images) | chosen

    def _is_frozen(self, labels: int) -> bool:
        """Whether BatchNorm keeps its statistics, given the number of labels."""
        return self.pretrained and labels < self.setup.config.freeze_below

    def _rates(self, labels: int) -> list[float]:
        """The learning rates to try for a number of labels, in ascending order."""
        config = self.setup.config
        if config.learning_rates or not config.rates_by_labels:
            return sorted(config.learning_rates)
        return FROZEN_RATES if self._is_frozen(labels) else RATES

    def _training(self, labels: int) -> supervised.ClassifierTraining:
        """The training for a number of labels."""
        return self._training_with(self._is_frozen(labels))

    @functools.cache  # noqa: B019 (it lives as long as the process)
    def _training_with(self, frozen_statistics: bool) -> supervised.ClassifierTraining:
        return supervised.ClassifierTraining(
            self.setup,
            frozen=False,
            name="finetune",
            frozen_statistics=frozen_statistics,
            any_rate=bool(self.setup.config.learning_rates or self.setup.config.rates_by_labels),
        )

    def _features(self, rows: np.ndarray) -> Outputs:
        """The features of some rows of the training source, without augmentation; `index` has these rows."""
        train = self.setup.train
        outputs = self.setup.features(train if len(rows) == train.num_examples else train.subset(rows))
        return dataclasses.replace(outputs, index=rows[outputs.index])

    def _choose_rate(
        self,
        rows: np.ndarray,
        seed: int,
        workdir: epath.Path,
        recipe: supervised.Recipe,
        features: Outputs | None,
    ) -> tuple[float | None, dict[str, float]]:
        """The learning rate, None for that of the config, and the top-1 of each that was tried."""
        config = self.setup.config
        rates = self._rates(len(rows))
        if len(rates) <= 1:
            return next(iter(rates), None), {}
        # Of an even number there are two middle ones: with few labels the smaller one stays nearer to what is known.
        small, large = rates[(len(rates) - 1) // 2], rates[len(rates) // 2]
        if len(rows) >= config.choose_below:
            log.info("%d labels, not below choose_below=%d: learning rate %g.", len(rows), config.choose_below, large)
            return large, {}
        held_out = logistic_regression.hold_out(self.setup.train.labels[rows], config.lbfgs.holdout, seed)
        if held_out is None:
            log.info("%d labels are too few to hold some out: learning rate %g.", len(rows), small)
            return small, {}
        if self._is_frozen(len(rows)):
            log.info("Fewer labels than freeze_below=%d: BatchNorm keeps its statistics.", config.freeze_below)
        fit_rows = np.delete(rows, held_out)
        classifier = self._probe(features, fit_rows, seed)
        found, trainings = {}, len(rates) + 1
        for number, rate in enumerate(rates, start=1):
            log.info("Training %d of %d: learning rate %g, without the held-out labels.", number, trainings, rate)
            folder = workdir / "learning_rates" / f"{rate:g}"
            found[rate] = self._try(rate, fit_rows, rows[held_out], seed, folder, recipe, classifier)
            log.info("Learning rate %g: %.1f %% of %d held-out labels.", rate, 100 * found[rate], len(held_out))
        best = max(found, key=lambda rate: found[rate])  # the smallest among equals
        log.info("Learning rate %g is taken. Training %d of %d: on all labels.", best, trainings, trainings)
        return best, {f"{rate:g}": top1 for rate, top1 in found.items()}

    def _try(
        self,
        rate: float,
        fit_rows: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        folder: epath.Path,
        recipe: supervised.Recipe,
        classifier: dict[str, Any] | None,
    ) -> float:
        """Top-1 on held-out rows after training on others; 0 where the loss became non-finite.

        The result of an earlier call in `folder` is read.

        Raises:
          UserError: where the earlier call had another config.
        """
        setup = self.setup
        earlier = runs.earlier_results(folder, setup.config, "top1")
        if earlier is not None:
            return earlier["top1"]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            training = self._training(len(fit_rows) + len(held_out))
            state, _ = training.train(fit_rows, seed, folder, recipe=recipe, classifier=classifier, learning_rate=rate)
            outputs = training.outputs(state, setup.train.subset(held_out))
            results = metrics.accuracy(outputs.values, outputs.labels)
        except NonFiniteLoss as error:
            log.info("Learning rate %g is too large: %s", rate, str(error).partition(";")[0])
            results = {"top1": 0.0}
        dataclasses.replace(setup, workdir=folder).write_config()
        writers.write_results(folder, results)
        if distributed.is_primary() and (folder / "checkpoints").exists():
            (folder / "checkpoints").rmtree()  # only the network that is trained on all labels is kept
        return results["top1"]

    def _probe(self, features: Outputs | None, rows: np.ndarray, seed: int) -> dict[str, jax.Array] | None:
        """The classifier of the linear probe on the labels of some rows; None: start from a random one.

        Args:
          features: of these and perhaps more rows.
          rows: of the training source.
          seed: of the labels on which l2 is chosen.
        """
        if features is None:
            return None
        here = np.isin(features.index, rows)
        classifier, _ = logistic_regression.fit(
            features.values[here],
            features.labels[here],
            self.setup.config.lbfgs,
            seed=seed,
            stop=self.setup.monitor.poll,
        )
        kernel, bias = logistic_regression.folded(classifier, self.setup.num_classes)
        known = np.isfinite(bias)
        bias = np.where(known, bias, bias[known].min() - BELOW_OTHERS).astype(np.float32)
        return jax.device_put({"kernel": kernel, "bias": bias}, sharding.replicated(self.setup.mesh))
