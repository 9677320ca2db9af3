"""Logistic regression on features by L-BFGS, with the l2 penalty chosen on held-out examples (paper appendix B.8)."""

from collections.abc import Callable
import dataclasses
import logging
from typing import Any
import warnings

from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.runtime.heartbeat import working

log = logging.getLogger("simclr_jax")

# Products of features and weights of up to this many multiply-adds run in one thread. On 2 cores, threads of OpenBLAS took 18
# times as long for 1,437 x 128 features and 10 classes, 2.3 times for 10,000 x 512, and as long for 20,000 x 2,048 and 100.
ONE_THREAD = 4e9

# Class scores `[n, classes]` and labels to a number; higher is better.
Metric = Callable[[np.ndarray, np.ndarray], float]


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of examples whose highest score is that of their label: float `[n, classes]`, int `[n]`."""
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    lbfgs: ConfigDict,
    *,
    seed: int,
    held_out: np.ndarray | None = None,
    metric: Metric = top1,
    stop: Callable[[], bool] = lambda: False,
) -> tuple["ScaledClassifier", float]:
    """Fit a multinomial logistic regression by L-BFGS (scikit-learn), with l2 chosen on held-out examples.

    It minimises the sum of cross entropies + l2 / 2 times the squared norm of the weights; the bias is not penalised.
    The values of l2 are tried from strong to weak, each starting from the previous solution, on the examples that are
    not held out. The best value (the strongest among equals) is then fitted to all examples.

    The paper does not say whether it standardised the features. By default each feature is scaled to mean 0 and standard
    deviation 1 over the training examples. Without this L-BFGS hardly converges if features are small or differ in scale,
    which would favour a pretrained encoder over an untrained one.

    Args:
      features: float32 `[n, dim]`.
      labels: int32 `[n]`; or, if an example can have several classes, `[n, classes]`: 1 for a class that it has, 0 for one
        that it does not have, -1 to ignore the example for this class. Each class then gets a binary regression.
      lbfgs: `config.lbfgs`: `standardize`, `l2_min`, `l2_max`, `l2_values`, `max_iterations`, and without `held_out` also
        `holdout`.
      seed: for drawing the held-out examples.
      held_out: rows on which to choose l2; None: draw a fraction `lbfgs.holdout` of the examples, class-balanced.
      metric: by which to choose l2.
      stop: polled before each fit of the sweep.

    Returns:
      The fitted classifier of unscaled features, for `scores`, and its l2.

    Raises:
      UserError: where all examples are of one class, as where the images of the others cannot be read.
      Preempted: if `stop` returns True.
    """
    from sklearn.preprocessing import StandardScaler

    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise UserError("the training images that can be read are all of one class: a classifier needs at least two.")
    scaler = StandardScaler(with_mean=lbfgs.standardize, with_std=lbfgs.standardize).fit(features)
    features = scaler.transform(features)
    values = np.geomspace(lbfgs.l2_max, lbfgs.l2_min, lbfgs.l2_values)
    if len(values) == 1:  # `geomspace` would take the first end
        values = np.sqrt([lbfgs.l2_max * lbfgs.l2_min])
    if held_out is None and len(values) > 1:
        held_out = hold_out(labels, lbfgs.holdout, seed)
    if len(values) == 1 or held_out is None:
        best_l2 = values[0] if len(values) == 1 else 1.0
        log.info("l2 is %g%s.", best_l2, "" if len(values) == 1 else ": too few labels to hold some out and choose it")
    else:
        classifier = _classifier(labels, max_iter=lbfgs.max_iterations, warm_start=True)
        best_l2 = _choose_l2(classifier, features, labels, values, held_out, metric, stop)
    with working(f"fitting all labels with l2 {best_l2:g}"):
        classifier = _fit(_classifier(labels, C=1 / best_l2, max_iter=10 * lbfgs.max_iterations), features, labels)
    if np.max(classifier.n_iter_) >= 10 * lbfgs.max_iterations:
        log.warning("L-BFGS with l2 %g did not converge: raise config.lbfgs.max_iterations.", best_l2)
    return ScaledClassifier(scaler, classifier), float(best_l2)


def _choose_l2(
    classifier: Any,
    features: np.ndarray,
    labels: np.ndarray,
    values: np.ndarray,
    held_out: np.ndarray,
    metric: Metric,
    stop: Callable[[], bool],
) -> float:
    """The value with the highest metric on the rows `held_out`, fitted to all other rows; the first among equals."""
    fit_rows = np.setdiff1d(np.arange(len(labels)), held_out)
    fit_features, held_out_features = features[fit_rows], features[held_out]
    num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    best_l2, best_value = values[0], -np.inf
    with working("choosing l2 on held-out labels", len(values), "values") as work:
        for l2 in values:
            if stop():
                raise Preempted("asked to stop during the l2 sweep; the same command runs it again.")
            _fit(classifier.set_params(C=1 / l2), fit_features, labels[fit_rows])
            value = metric(scores(classifier, held_out_features, num_classes), labels[held_out])
            if value > best_value:
                best_l2, best_value = l2, value
            work.did()
    return best_l2


@dataclasses.dataclass(frozen=True)
class ScaledClassifier:
    """A fitted classifier together with the scaling of its features: it takes unscaled features."""

    scaler: Any
    classifier: Any

    @property
    def classes_(self) -> np.ndarray:
        return self.classifier.classes_

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        return self.classifier.decision_function(self.scaler.transform(features))


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray | None:
    """Draw the rows to hold out, sorted, class-balanced if each example has one class.

    Args:
      labels: int `[n]`, or `[n, classes]` as for `fit`.
      fraction: of the examples to hold out.
      seed: of the draw.

    Returns:
      int64 rows; None if a class has too few examples to have one on both sides.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    if labels.ndim == 2:
        return np.sort(np.random.default_rng(seed).permutation(everything)[: max(1, int(len(labels) * fraction))])
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if counts.min() < 2 or int(len(labels) * fraction) < len(counts):
        return None
    return np.sort(train_test_split(everything, test_size=fraction, stratify=labels, random_state=seed)[1])


def _classifier(labels: np.ndarray, **options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return OneVsRest(labels.shape[1], **options) if labels.ndim == 2 else LogisticRegression(**options)


def _fit(classifier: Any, features: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    num_classes = 1 if labels.ndim == 2 else len(np.unique(labels))
    threads = 1 if features.size * num_classes <= ONE_THREAD else None
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


class OneVsRest:
    """A binary logistic regression for each class, on the examples labelled for it; the interface is scikit-learn's.

    Args:
      num_classes: number of classes.
      options: of each `sklearn.linear_model.LogisticRegression`.
    """

    def __init__(self, num_classes: int, **options: Any):
        from sklearn.linear_model import LogisticRegression

        self.classes_ = np.arange(num_classes)
        self._regressions = [LogisticRegression(**options) for _ in self.classes_]

    def set_params(self, **options: Any) -> "OneVsRest":
        for regression in self._regressions:
            regression.set_params(**options)
        return self

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "OneVsRest":
        for number, regression in enumerate(self._regressions):
            labelled = labels[:, number] >= 0
            if len(np.unique(labels[labelled, number])) == 2:  # otherwise there is nothing to separate
                regression.fit(features[labelled], labels[labelled, number])
        return self

    @property
    def n_iter_(self) -> np.ndarray:
        return np.array([np.max(getattr(regression, "n_iter_", 0)) for regression in self._regressions])

    def decision_function(self, features: np.ndarray) -> np.ndarray:
        columns = [
            regression.decision_function(features) if hasattr(regression, "coef_") else np.zeros(len(features))
            for regression in self._regressions
        ]
        return np.stack(columns, axis=1)


def scores(classifier: Any, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Class scores `[n, num_classes]` of features `[n, dim]`; -inf for a class that has no training example."""
    decision = classifier.decision_function(features)
    if decision.ndim == 1:  # two classes: scikit-learn gives one column
        decision = np.stack([-decision, decision], axis=1)
    all_classes = np.full((len(features), num_classes), -np.inf)
    all_classes[:, classifier.classes_] = decision
    return all_classes


def folded(classifier: "ScaledClassifier", num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the same classifier without its scaling, so that softmax(x @ kernel + bias) is its prediction.

    Args:
      classifier: from `fit`, of examples with one class each.
      num_classes: number of classes.

    Returns:
      float32 kernel `[dim, num_classes]` and bias `[num_classes]`. A class that has no training example has the kernel 0
      and the bias -inf, so its probability is 0.
    """
    weights = np.asarray(classifier.classifier.coef_, np.float64)
    offsets = np.asarray(classifier.classifier.intercept_, np.float64)
    if len(weights) == 1:  # two classes: scikit-learn has one logit, that of the second class
        weights, offsets = np.concatenate([-weights, weights]) / 2, np.concatenate([-offsets, offsets]) / 2
    if classifier.scaler.with_std:
        weights = weights / classifier.scaler.scale_
    if classifier.scaler.with_mean:
        offsets = offsets - weights @ classifier.scaler.mean_
    kernel = np.zeros((weights.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, -np.inf, np.float32)
    kernel[:, classifier.classes_], bias[classifier.classes_] = weights.T, offsets
    return kernel, bias
