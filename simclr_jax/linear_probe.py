"""Linear evaluation: train a linear classifier on a frozen encoder (paper section 4.2, appendix B.6 and B.8).

    python -m simclr_jax.linear_probe --pretrained=runs/digits --workdir=runs/digits_probe
    python -m simclr_jax.linear_probe ... --config=configs/linear_probe.py:sgd    # the paper's ImageNet protocol
    python -m simclr_jax.linear_probe ... --config.features=z                     # the projection head's output, not h
    python -m simclr_jax.linear_probe ... --config.init=random                    # the same encoder, untrained

There are two protocols. "lbfgs" is logistic regression by L-BFGS on features of the images without augmentation: l2 is
chosen on held-out training labels, then the classifier is fitted to all of them. "sgd" is the paper's protocol for
ImageNet: SGD with Nesterov momentum on random crops and flips. Both freeze the encoder, BatchNorm statistics included.
Writes config.json, results.json and, for each subset of the labels, draw_SEED/classifier.npz: the weights, which
`simclr_jax.load` and `simclr_jax.predict` use. "sgd" also writes metrics and checkpoints.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("linear_probe")  # answers --help and mistakes before the imports below; does not return


import logging

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.evaluation import label_subsets
from simclr_jax.evaluation import logistic_regression
from simclr_jax.evaluation import supervised
from simclr_jax.evaluation.labelled_data import check_classifier
from simclr_jax.evaluation.setup import Setup
from simclr_jax.evaluation.setup import set_up
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Probes the encoder and returns the content of results.json."""
    if config.protocol == "stored":
        config = _as_stored(config, pretrained)
    setup = set_up(config, workdir, pretrained, config_lib.linear_probe(), monitor)
    config = setup.config
    if config.protocol == "stored":
        results = _stored(setup)
    elif config.protocol == "sgd":
        training = supervised.ClassifierTraining(setup, frozen=True, name="linear probe")
        results = label_subsets.evaluate_each(setup, training.run)
    else:
        results = _lbfgs(setup)
    results |= {"protocol": config.protocol, "features": config.features, "init": config.init}
    writers.write_results(workdir, results)
    log.info(
        "Linear probe (%s) of %s: %.1f %% top-1, %.1f %% top-5 of %d test images.",
        config.protocol,
        config.features,
        100 * results["top1"],
        100 * results["top5"],
        results["n"],
    )
    return results


def _as_stored(config: ConfigDict, pretrained: str | None) -> ConfigDict:
    """The config with the features that the classifier in the checkpoint is on."""
    path = checkpoint.find(pretrained) if pretrained else None
    if path is None or config.init != "pretrained" or not (path / "classifier").exists():
        raise UserError(
            f"config.protocol is 'stored', but there is no classifier in {path or 'an untrained network'}: it needs the "
            "workdir of a fine-tuning run, of an import with a classifier, or of pretraining with labels."
        )
    config = config.copy_and_resolve_references()
    config.features = checkpoint.load_config(path, ConfigDict).get("features", "h")
    return config


def _stored(setup: Setup) -> dict:
    path = epath.Path(setup.config.pretrained)
    kernel, bias = checkpoint.load_classifier(path)
    hint = "score it on the data it was trained for, or train one with another config.protocol."
    check_classifier(f"the classifier in {path}", len(bias), checkpoint.class_names(path), setup.test, hint)
    test = setup.features(setup.test)

    def probe(rows: np.ndarray, seed: int, folder: epath.Path) -> dict:
        del rows, seed
        results = setup.score(test.values @ kernel + bias, test, folder)
        return results | {"step": setup.pretrained_step, "bad_images": test.unreadable}

    return label_subsets.evaluate_each(setup, probe)


def _lbfgs(setup: Setup) -> dict:
    train, test = setup.features(setup.train), setup.features(setup.test)

    def probe(rows: np.ndarray, seed: int, folder: epath.Path) -> dict:
        readable = np.isin(train.index, rows)
        classifier, l2 = logistic_regression.fit(
            train.values[readable], train.labels[readable], setup.config.lbfgs, seed=seed, stop=setup.monitor.poll
        )
        kernel, bias = logistic_regression.folded(classifier, setup.num_classes)
        names, features = setup.test.class_names or (), setup.config.features
        of_encoder = setup.data["encoder"]
        classifiers.write(folder, classifiers.SavedClassifier(kernel, bias, names, features, l2, of_encoder))
        scores = logistic_regression.scores(classifier, test.values, setup.num_classes)
        results = setup.score(scores, test, folder)
        return results | {"l2": l2, "step": setup.pretrained_step, "bad_images": train.unreadable + test.unreadable}

    return label_subsets.evaluate_each(setup, probe)
