"""Distillation: a student learns a teacher's predictions of unlabelled images (SimCLRv2, arXiv 2006.10029, section 3.3).

    python -m simclr_jax.distill --config=configs/distill.py --config.teacher=runs/digits_10pct \\
        --pretrained=runs/digits --workdir=runs/digits_student                       # self-training
    python -m simclr_jax.distill --config=configs/distill.py --config.teacher=runs/digits_10pct \\
        --config.init=random --config.model.width=0.25 --workdir=runs/digits_small   # into a smaller network

The teacher is a network that `simclr_jax.finetune` has trained on a few labels. The training images need no labels; if
they have some, these are ignored. Unset fields of data and model are taken from --pretrained, or else from the teacher.
Writes config.json, metrics.jsonl, checkpoints/ and results.json, which has the teacher's accuracy as `teacher_top1`.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("distill")  # answers --help and mistakes before the imports below; does not return


import logging

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation import supervised
from simclr_jax.evaluation.labelled_data import check_classifier
from simclr_jax.evaluation.setup import Setup
from simclr_jax.evaluation.setup import make_parts
from simclr_jax.evaluation.setup import set_up
from simclr_jax.models.networks import Classifier
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


def run(config: ConfigDict, workdir: epath.Path, pretrained: str | None, *, monitor: RunMonitor) -> dict:
    """Distils and returns the content of results.json."""
    if not config.teacher:
        raise UserError(
            "config.teacher is not set: the workdir of a fine-tuning run, as in --config.teacher=runs/1pct."
        )
    path = find_teacher(config.teacher)
    teacher_config = checkpoint.load_config(path, config_lib.finetune)
    if teacher_config.kind == "pretrain":
        raise UserError(
            f"config.teacher={config.teacher!r}: {path} is of a pretraining run. Fine-tune that first, by "
            "simclr_jax.finetune."
        )
    if pretrained is None:
        config = config.copy_and_resolve_references()
        saved_config.inherit(config, teacher_config)
    schema = config_lib.distill()
    setup = set_up(config, workdir, pretrained, schema, monitor, train_labels=False)
    config = setup.config
    _check_teacher(config, path, setup)
    teacher = load_teacher(path, teacher_config, setup)

    def teachers(model, images):
        return model(images, train=False)

    outputs = setup.outputs(steps.make_forward(teacher.graph, teachers, setup.mesh), *teacher.variables, setup.test)
    of_teacher = metrics.accuracy(outputs.values, outputs.labels)
    log.info("The teacher, %s: %.1f %% top-1.", path, 100 * of_teacher["top1"])
    training = supervised.ClassifierTraining(setup, frozen=False, name="distill", teacher=teacher)
    results = training.run(np.arange(setup.train.num_examples), config.seed, workdir)
    results |= {
        "init": config.init,
        "teacher": str(path),
        "teacher_top1": of_teacher["top1"],
        "teacher_top5": of_teacher["top5"],
    }
    writers.write_results(workdir, results)
    log.info(
        "The student: %.1f %% top-1 of %d test images (its teacher %.1f %%).",
        100 * results["top1"],
        results["n"],
        100 * results["teacher_top1"],
    )
    return results


def find_teacher(teacher: str) -> epath.Path:
    """The checkpoint of a fine-tuned classifier.

    Args:
      teacher: a checkpoint, the workdir of a draw, or of a fine-tuning run with one draw only.

    Raises:
      UserError: where there is none, or more than one draw.
    """
    return checkpoint.find(checkpoint.only_draw(teacher, f"config.teacher={teacher!r}"), flag="--config.teacher")


def _check_teacher(config: ConfigDict, path: epath.Path, setup: Setup) -> None:
    if not (path / "classifier").exists():
        raise UserError(f"config.teacher={config.teacher!r}: {path} has no classifier.")
    (number,) = checkpoint.shapes(path, "classifier")["params"]["bias"]
    hint = "a student needs a teacher of the classes of its test images."
    check_classifier(f"config.teacher={config.teacher!r}", number, checkpoint.class_names(path), setup.test, hint)


def load_teacher(path: epath.Path, config: ConfigDict, setup: Setup) -> supervised.Teacher:
    """The classifier in a checkpoint of `simclr_jax.finetune`."""

    pretrain_config = None
    if config.features != "h" and "head" in config:  # an import, which describes its projection head itself
        pretrain_config = config
    elif config.features != "h":
        pretrain_config = checkpoint.load_config(checkpoint.find(config.pretrained, "the teacher's config.pretrained"))

    def make_model(rngs):
        encoder, head = make_parts(config, pretrain_config, rngs)
        return Classifier(encoder, setup.num_classes, head=head, frozen=False, rngs=rngs)

    variables = state_lib.abstract_variables(make_model, setup.mesh)
    return supervised.Teacher(state_lib.graph_of(make_model), checkpoint.load_parts(path, *variables))
