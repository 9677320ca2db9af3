"""Linear evaluation: what a linear classifier reads out of a frozen encoder (paper section 4.2, appendix B.6 and B.8).

    python -m simclr_jax.linear_probe --pretrained=runs/digits --workdir=runs/digits_probe
    python -m simclr_jax.linear_probe ... --config=configs/linear_probe.py:sgd    # the paper's ImageNet protocol
    python -m simclr_jax.linear_probe ... --config.features=z                     # the projection head's output, not h
    python -m simclr_jax.linear_probe ... --config.init=random                    # the same encoder, untrained

Two protocols. "lbfgs": logistic regression by L-BFGS on features of the images as they are, l2 chosen on held-out
training labels, then fitted to all. "sgd": the paper's for ImageNet, SGD with Nesterov momentum on random crops and
flips. In both the encoder is frozen with its BatchNorm statistics. Writes config.json, results.json; for "sgd" also
what a training writes.
"""

import logging
import warnings

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import cli
from simclr_jax import config as config_lib
from simclr_jax import evaluation
from simclr_jax.errors import Preempted
from simclr_jax.operations import Operations
from simclr_jax.training import metrics
from simclr_jax.training import supervised

log = logging.getLogger("simclr_jax")


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, operations: Operations) -> dict:
    """Probes the encoder and returns what stands in results.json."""
    setup = evaluation.set_up(config, workdir, pretrained, config_lib.linear_probe(), operations)
    if config.protocol == "sgd":
        training = supervised.ClassifierTraining(setup, frozen=True, name="linear probe")
        results = evaluation.run_draws(setup, training.run)
    else:
        results = _lbfgs(setup)
    results |= {"protocol": config.protocol, "features": config.features, "init": config.init}
    metrics.write_results(workdir, results)
    log.info(
        "Linear probe (%s) of %s: %.1f %% top-1, %.1f %% top-5 of %d test images.",
        config.protocol,
        config.features,
        100 * results["top1"],
        100 * results["top5"],
        results["n"],
    )
    return results


def _lbfgs(setup: evaluation.Setup) -> dict:
    train, test = setup.features(setup.train), setup.features(setup.test)

    def probe(rows: np.ndarray, seed: int, folder: epath.Path) -> dict:
        readable = np.isin(train.index, rows)
        classifier, l2 = fit_logistic_regression(
            train.values[readable], train.labels[readable], setup.config.lbfgs, seed=seed, stop=setup.operations.poll
        )
        results = setup.judge(scores(classifier, test.values, setup.num_classes), test, folder)
        return results | {"l2": l2, "step": setup.pretrained_step, "bad_images": train.unreadable + test.unreadable}

    return evaluation.run_draws(setup, probe)


def fit_logistic_regression(
    features: np.ndarray, labels: np.ndarray, lbfgs: ConfigDict, *, seed: int, stop=lambda: False
):
    """Multinomial logistic regression by L-BFGS (scikit-learn), its l2 penalty chosen on held-out labels.

    Minimises the sum of cross entropies + l2 / 2 times the squared norm of the weights; the offset is free. The values
    of l2 are tried from strong to weak, each from the previous solution, on a class-balanced share of the labels; the
    best one, the strongest among equals, is then fitted to all of them.

    The paper does not say whether it standardised the features. Here each is taken to mean 0 and deviation 1 over the
    training features by default: without it L-BFGS hardly converges where features are small or of unlike size, which
    would flatter a pretrained encoder against an untrained one.

    Args:
      features: float32 `[n, dim]`.
      labels: int32 `[n]`.
      lbfgs: `config.lbfgs`: `standardize`, `l2_min`, `l2_max`, `l2_values`, `holdout`, `max_iterations`.
      seed: of the held-out share.
      stop: polled between fits.

    Returns:
      The fitted classifier (of features as given) and its l2.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=lbfgs.standardize, with_std=lbfgs.standardize).fit(features)
    features = scaler.transform(features)

    def fit(classifier: LogisticRegression, rows) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return classifier.fit(features[rows], labels[rows])

    counts = np.bincount(labels)
    counts = counts[counts > 0]
    values = np.geomspace(lbfgs.l2_max, lbfgs.l2_min, lbfgs.l2_values)
    everything = np.arange(len(labels))
    # Each class needs an example on either side.
    if len(values) > 1 and counts.min() >= 2 and int(len(labels) * lbfgs.holdout) >= len(counts):
        fitted, held_out = train_test_split(everything, test_size=lbfgs.holdout, stratify=labels, random_state=seed)
        classifier = LogisticRegression(max_iter=lbfgs.max_iterations, warm_start=True)
        best_l2, best_accuracy = values[0], -1.0
        for l2 in values:
            if stop():
                raise Preempted("asked to stop during the l2 sweep; the same command runs it again.")
            fit(classifier.set_params(C=1 / l2), fitted)
            held_accuracy = classifier.score(features[held_out], labels[held_out])
            if held_accuracy > best_accuracy:
                best_l2, best_accuracy = l2, held_accuracy
    else:
        best_l2 = values[0] if len(values) == 1 else 1.0
        log.info("Too few labels to hold some out: l2 is %g, not chosen.", best_l2)
    classifier = fit(LogisticRegression(C=1 / best_l2, max_iter=10 * lbfgs.max_iterations), everything)
    if np.max(classifier.n_iter_) >= 10 * lbfgs.max_iterations:
        log.warning("L-BFGS with l2 %g did not converge: raise config.lbfgs.max_iterations.", best_l2)
    return make_pipeline(scaler, classifier), float(best_l2)


def scores(classifier, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Class scores `[n, num_classes]`; a class that was not among the training labels scores lowest."""
    decision = classifier.decision_function(features)
    if decision.ndim == 1:  # two classes: scikit-learn gives one column
        decision = np.stack([-decision, decision], axis=1)
    full = np.full((len(features), num_classes), -np.inf)
    full[:, classifier.classes_] = decision
    return full


BINARY = cli.Binary(run, default_config="linear_probe.py", pretrained=True)

if __name__ == "__main__":
    BINARY.main()
