"""Transfer: evaluate an encoder on another data set, everything chosen on validation images (paper appendix B.8, table 8).

    python -m simclr_jax.transfer --config=configs/transfer.py:dtd --pretrained=DIR --workdir=DIR_dtd
    python -m simclr_jax.transfer --config=configs/transfer.py:dtd,protocol=finetune --pretrained=DIR --workdir=DIR_dtd_ft
    python -m simclr_jax.transfer --config=configs/transfer.py:folder,root=BIRDS --pretrained=DIR --workdir=DIR_birds

"lbfgs": logistic regression on the features of the frozen encoder. l2 is chosen on the validation images; then the
classifier is fitted to training and validation images together. "finetune": the whole network is trained once for each
learning rate and weight decay of `config.grid` and scored on the validation images; the best pair then trains on both.
Test images are used once, at the end.

Validation images are `config.data.val_split`, or a share of the training images. Writes config.json and results.json, and
for "finetune" a folder for each training (without checkpoints, except for the chosen one). The same command continues.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("transfer")  # answers --help and mistakes before the imports below; does not return


from collections.abc import Callable
import dataclasses
import itertools
import logging
import time

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import sources
from simclr_jax.data.sources.files import expanded
from simclr_jax.errors import UserError
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation import supervised
from simclr_jax.evaluation.labelled_data import check_labels
from simclr_jax.evaluation.setup import Setup
from simclr_jax.evaluation.setup import set_up
from simclr_jax.runtime import distributed
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.workdir import data_record
from simclr_jax.workdir import runs
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Labelled images, and the rows of those for training and for validation."""

    source: sources.RandomAccess
    train: np.ndarray
    val: np.ndarray


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Chooses, trains, tests, and returns the content of results.json."""
    setup = set_up(config, workdir, pretrained, config_lib.transfer(), monitor, multi_label=True)
    config = setup.config
    _check_metric(config, setup.test)
    parts = _split(setup)
    results = (_lbfgs if config.protocol == "lbfgs" else _finetune)(setup, parts)
    setup.write_config()
    results |= {
        "metric": config.metric,
        "protocol": config.protocol,
        "features": config.features,
        "init": config.init,
        "train_images": len(parts.train),
        "val_images": len(parts.val),
        "seconds": time.monotonic() - setup.began,
    }
    writers.write_results(workdir, results)
    log.info(
        "Transfer (%s) to %s: %s %.1f %% on %d test images, %.1f %% on the validation images.",
        config.protocol,
        setup.test.name,
        config.metric,
        100 * results[config.metric],
        results["n"],
        100 * results["val"],
    )
    return results


def _check_metric(config: ConfigDict, test: sources.Source) -> None:
    if test.multi_label != (config.metric == "map11"):
        kind = "several classes each" if test.multi_label else "one class each"
        right = "'map11'" if test.multi_label else "'top1' or 'mean_per_class'"
        raise UserError(f"config.metric is {config.metric!r}, but the images of {test.name} have {kind}: take {right}.")


def _split(setup: Setup) -> Parts:
    """Training and validation images.

    Raises:
      UserError: where the split is missing, or a class has too few images to hold some out.
    """
    config, train = setup.config, setup.train
    if not isinstance(train, sources.RandomAccess):
        raise UserError(
            f"{train.name} is larger than config.data.memory_mib={config.data.memory_mib}: transfer holds its data in memory."
        )
    if config.data.val_split is None:
        held_out = logistic_regression.hold_out(train.labels, config.holdout, config.seed)
        if held_out is None:
            raise UserError(
                f"{train.name} is too small to hold out config.holdout={config.holdout:g} of it with an image of each class: "
                "name validation images with --config.data.val_split."
            )
        return Parts(train, np.setdiff1d(np.arange(train.num_examples), held_out), held_out)
    root = epath.Path(expanded(config.data.root or ""))
    of_folders = config.data.source == "folder" and not config.data.labels and root.is_dir()
    if of_folders and not (root / config.data.val_split).is_dir():
        raise UserError(
            f"config.data.val_split is {config.data.val_split!r}, but {config.data.root} has no such folder."
        )
    data = config.data.copy_and_resolve_references()
    data.train_split = config.data.val_split
    val = sources.open_source(data, "train")
    check_labels(val, multi_label=True)
    sources.check_same_classes(train, val)
    joined = sources.join(train, val)  # type: ignore[arg-type]
    rows = np.arange(joined.num_examples)
    return Parts(joined, rows[: train.num_examples], rows[train.num_examples :])


def measure_of(metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric with this name: a function of scores `[n, classes]` and labels to a number in [0, 1]."""
    if metric == "map11":
        return metrics.mean_average_precision
    return lambda scores, labels: metrics.accuracy(scores, labels)[metric]


def _lbfgs(setup: Setup, parts: Parts) -> dict:
    config, measure = setup.config, measure_of(setup.config.metric)
    seen, test = setup.features(parts.source), setup.features(setup.test)
    found: list[float] = []

    def measured(scores: np.ndarray, labels: np.ndarray) -> float:
        found.append(measure(scores, labels))
        return found[-1]

    classifier, l2 = logistic_regression.fit(
        seen.values,
        seen.labels,
        config.lbfgs,
        seed=config.seed,
        held_out=np.flatnonzero(np.isin(seen.index, parts.val)),
        metric=measured,
        stop=setup.monitor.poll,
    )
    scores = logistic_regression.scores(classifier, test.values, setup.num_classes)
    chosen = {"l2": l2, "val": max(found, default=float("nan")), "step": setup.pretrained_step}
    return setup.score(scores, test, setup.workdir) | chosen | {"bad_images": seen.unreadable + test.unreadable}


def _finetune(setup: Setup, parts: Parts) -> dict:
    train, val = parts.source.subset(parts.train), parts.source.subset(parts.val)
    grid = setup.config.grid
    pairs = list(itertools.product(grid.learning_rates, grid.weight_decays))
    found = {}
    for number, (rate, decay) in enumerate(pairs, start=1):
        folder = setup.workdir / "grid" / f"learning_rate={rate:g},weight_decay={decay:g}"
        results = _train(setup, train, val, rate, decay, folder)
        found[rate, decay] = results[setup.config.metric]
        if distributed.is_primary() and (folder / "checkpoints").exists():
            (folder / "checkpoints").rmtree()  # only the network of the chosen pair is kept
        log.info("%d of %d, %s: %.1f %%.", number, len(pairs), folder.name, 100 * found[rate, decay])
    rate, decay = max(found, key=lambda pair: found[pair])  # the first among equals
    chosen = {"learning_rate": rate, "weight_decay": decay, "val": found[rate, decay]}
    return _train(setup, parts.source, setup.test, rate, decay, setup.workdir / "chosen") | chosen


def _train(
    setup: Setup,
    train: sources.RandomAccess,
    test: sources.Source,
    rate: float,
    decay: float,
    folder: epath.Path,
) -> dict:
    """Fine-tunes on one set of images and scores on another. Results of an earlier call in `folder` are read.

    Raises:
      UserError: where the earlier call had another config.
    """
    config = setup.config.copy_and_resolve_references()
    steps_per_epoch = max(1, train.num_examples // config.batch_size)
    with config.unlocked():
        config.optimizer.learning_rate = rate
        config.optimizer.weight_decay = decay / rate
        config.batch_size = supervised.batch_for(config.batch_size, train.num_examples, setup.mesh.size)
        config.epochs = (config.steps - 1) * config.batch_size / train.num_examples
        config.min_steps = config.steps
    # The workdir has no record before the end, so that each training has its own.
    data = data_record.check(folder, setup.data, accept=setup.monitor.accept_new_data)
    earlier = runs.earlier_results(folder, config, setup.config.metric)
    if earlier is not None:
        return earlier
    folder.mkdir(parents=True, exist_ok=True)
    part = dataclasses.replace(setup, config=config, workdir=folder, train=train, test=test, data=data)
    momentum = max(1 - 10 / steps_per_epoch, 0.9)
    training = supervised.ClassifierTraining(part, frozen=False, name=folder.name, bn_momentum=momentum)
    results = training.run(np.arange(train.num_examples), config.seed, folder)
    writers.write_results(folder, results)
    return results
