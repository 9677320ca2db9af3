"""Logistic regression on features by L-BFGS, its penalty chosen on held-out examples (paper appendix B.8)."""

from collections.abc import Callable
import dataclasses
import logging
from typing import Any
import warnings

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import Preempted

log = logging.getLogger("simclr_jax")

# Of class scores [n, classes] and labels, how good they are; more is better.
Measure = Callable[[np.ndarray, np.ndarray], float]


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    lbfgs: ConfigDict,
    *,
    seed: int,
    held_out: np.ndarray | None = None,
    measure: Measure = top1,
    stop: Callable[[], bool] = lambda: False,
):
    """Multinomial logistic regression by L-BFGS (scikit-learn), its l2 penalty chosen on held-out examples.

    Minimises the sum of cross entropies + l2 / 2 times the squared norm of the weights; the offset is free. The values
    of l2 are tried from strong to weak, each from the previous solution, on the examples that are not held out; the
    best one, the strongest among equals, is then fitted to all of them.

    The paper does not say whether it standardised the features. Here each is taken to mean 0 and deviation 1 over the
    training features by default: without it L-BFGS hardly converges where features are small or of unlike size, which
    would flatter a pretrained encoder against an untrained one.

    Args:
      features: float32 `[n, dim]`.
      labels: int32 `[n]`; or with any number of classes for an example `[n, classes]`: 1 for those it is of, 0 for those it
        is not, -1 where that does not count. The classes are then regressed one by one.
      lbfgs: `config.lbfgs`: `standardize`, `l2_min`, `l2_max`, `l2_values`, `max_iterations`, and without `held_out` also
        `holdout`.
      seed: of the held-out share.
      held_out: rows on which l2 is chosen; None: a class-balanced share of `lbfgs.holdout`.
      measure: by which it is chosen.
      stop: polled between fits.

    Returns:
      The fitted classifier (of features as given), for `scores`, and its l2.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=lbfgs.standardize, with_std=lbfgs.standardize).fit(features)
    features = scaler.transform(features)
    num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    values = np.geomspace(lbfgs.l2_max, lbfgs.l2_min, lbfgs.l2_values)
    if held_out is None and len(values) > 1:
        held_out = hold_out(labels, lbfgs.holdout, seed)
    if len(values) == 1 or held_out is None:
        best_l2 = values[0] if len(values) == 1 else 1.0
        log.info("l2 is %g%s.", best_l2, "" if len(values) == 1 else ": too few labels to hold some out and choose it")
    else:
        fitted = np.setdiff1d(np.arange(len(labels)), held_out)
        features_fitted, features_held_out = features[fitted], features[held_out]
        classifier = _classifier(labels, max_iter=lbfgs.max_iterations, warm_start=True)
        best_l2, best = values[0], -np.inf
        for l2 in values:
            if stop():
                raise Preempted("asked to stop during the l2 sweep; the same command runs it again.")
            _fit(classifier.set_params(C=1 / l2), features_fitted, labels[fitted])
            found = measure(scores(classifier, features_held_out, num_classes), labels[held_out])
            if found > best:
                best_l2, best = l2, found
    classifier = _fit(_classifier(labels, C=1 / best_l2, max_iter=10 * lbfgs.max_iterations), features, labels)
    if np.max(classifier.n_iter_) >= 10 * lbfgs.max_iterations:
        log.warning("L-BFGS with l2 %g did not converge: raise config.lbfgs.max_iterations.", best_l2)
    return Fitted(scaler, classifier), float(best_l2)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A classifier of features as they were before scaling."""

    scaler: Any
    classifier: Any

    @property
    def classes_(self) -> np.ndarray:
        return self.classifier.classes_

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        return self.classifier.decision_function(self.scaler.transform(features))


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray | None:
    """Sorted rows of a share of the examples, class-balanced where each has one class.

    None where that is not possible, since each class needs an example on either side.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    if labels.ndim == 2:
        return np.sort(np.random.default_rng(seed).permutation(everything)[: max(1, int(len(labels) * share))])
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if counts.min() < 2 or int(len(labels) * share) < len(counts):
        return None
    return np.sort(train_test_split(everything, test_size=share, stratify=labels, random_state=seed)[1])


def _classifier(labels: np.ndarray, **options):
    from sklearn.linear_model import LogisticRegression

    return OneByOne(labels.shape[1], **options) if labels.ndim == 2 else LogisticRegression(**options)


def _fit(classifier, features: np.ndarray, labels: np.ndarray):
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


class OneByOne:
    """A logistic regression for each class, of the examples that count for it. Used as scikit-learn's own are."""

    def __init__(self, num_classes: int, **options):
        from sklearn.linear_model import LogisticRegression

        self.classes_ = np.arange(num_classes)
        self._each = [LogisticRegression(**options) for _ in self.classes_]

    def set_params(self, **options) -> "OneByOne":
        for one in self._each:
            one.set_params(**options)
        return self

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "OneByOne":
        for number, one in enumerate(self._each):
            counts = labels[:, number] >= 0
            if len(np.unique(labels[counts, number])) == 2:  # otherwise there is nothing to tell apart
                one.fit(features[counts], labels[counts, number])
        return self

    @property
    def n_iter_(self) -> np.ndarray:
        return np.array([np.max(getattr(one, "n_iter_", 0)) for one in self._each])

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        nothing = np.zeros(len(features))
        return np.stack(
            [one.decision_function(features) if hasattr(one, "coef_") else nothing for one in self._each], 1
        )


def scores(classifier, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Class scores `[n, num_classes]`; a class that was not among the training labels scores lowest."""
    decision = classifier.decision_function(features)
    if decision.ndim == 1:  # two classes: scikit-learn gives one column
        decision = np.stack([-decision, decision], axis=1)
    full = np.full((len(features), num_classes), -np.inf)
    full[:, classifier.classes_] = decision
    return full
