"""All fields of all kinds of runs, each with its default, its help and the values that it may have.

`pretrain()`, `linear_probe()`, ... return the config of a kind of run. A file in `configs/` starts from one of them and
changes what its setting needs. A field that is None has to be given, or is taken from the pretraining config of the
checkpoint that is evaluated.
"""

import dataclasses

import ml_collections

import simclr_jax.config.blocks as blocks
import simclr_jax.config.choices as choices
import simclr_jax.config.field as field
from simclr_jax.config.field import Block
from simclr_jax.config.field import Bound
from simclr_jax.config.field import Field
from simclr_jax.config.kinds import KINDS

TRANSFORMS = " ".join(choices.TRANSFORMS)
_TRANSFORMS = Bound(
    f"some of {TRANSFORMS!r}, with spaces between",
    lambda value: bool(value.split()) and set(value.split()) <= set(choices.TRANSFORMS),
)


def _pretrain() -> Block:
    return blocks.run("pretrain") | {
        "data": blocks.data(),
        "augment": blocks.augment(),
        "model": blocks.model() | blocks.of_the_reference(),
        "head": {
            "kind": Field("nonlinear", "Projection head.", choices=choices.HEADS),
            "layers": Field(2, "Layers of a nonlinear head; SimCLRv2 has 3.", bound=field.AT_LEAST_1),
            "dim": Field(128, "Dimension of z.", bound=field.AT_LEAST_1),
        },
        "loss": {
            "name": Field("nt_xent", "NT-Xent, or a loss that the paper compares it with.", choices=choices.LOSSES),
            "temperature": Field(0.1, "Of NT-Xent and NT-Logistic.", bound=field.POSITIVE),
            "normalize": Field(True, "l2-normalise the embeddings."),
            "margin": Field(0.8, "Margin triplet only.", bound=field.POSITIVE),
            "semi_hard": Field(False, "NT-Logistic and margin triplet: one semi-hard negative for each view."),
            "method": Field(
                "auto",
                "blocks: never more than a block of logits in memory; dense: all at once; auto: the faster one.",
                choices=choices.LOSS_METHODS,
            ),
        },
        "optimizer": _with_auto(blocks.optimizer(), "warmup_epochs", "a tenth of the run, at most 10."),
        "batch_size": Field(
            4096,
            "Images over all devices and hosts. auto: by the number of images, from 32 to 256.",
            bound=field.AT_LEAST_2,
            word="auto",
        ),
        "microbatches": Field(
            1,
            "Embed the batch in this many parts: the loss contrasts all images while the memory is that of one part, for "
            "up to half as much time again. BatchNorm uses the statistics of each part. auto: the smallest number that fits in "
            "the memory.",
            bound=field.AT_LEAST_1,
            word="auto",
        ),
        "epochs": Field(
            100.0,
            "Length of the run. auto: 3,000 steps or 100 epochs, whichever is more, but at most 800 epochs.",
            bound=field.POSITIVE,
            word="auto",
        ),
        "online_classifier": Field(
            True, "Train a linear classifier beside the encoder, without gradient to it, where there are labels."
        ),
        "evaluate_every_steps": Field(
            0, "Test that classifier, and save, after this many steps; 0: only at the end.", bound=field.NOT_NEGATIVE
        ),
    }


def _with_auto(block: Block, name: str, doc: str) -> Block:
    """`block`, in which one field may also be "auto"; `doc` says what that is."""
    plain = block[name]
    return block | {name: dataclasses.replace(plain, doc=f"{plain.doc} auto: {doc}", word="auto")}


def _linear_probe() -> Block:
    holdout = Field(0.2, "Share of the labels on which l2 is chosen.", bound=field.PART)
    return blocks.evaluation("linear_probe") | {
        "protocol": Field(
            "lbfgs",
            "lbfgs: on cached features, l2 chosen on held-out labels; sgd: the paper's ImageNet protocol; stored: "
            "train nothing, score the classifier that is in the checkpoint (fine-tuned, imported, or of pretraining).",
            choices=choices.PROBE_PROTOCOLS,
        ),
        "lbfgs": blocks.lbfgs() | {"holdout": holdout},
        "augment": blocks.crop_and_flip(),
        "optimizer": blocks.sgd(learning_rate=0.1),
        "epochs": Field(90.0, "Length of the training (sgd).", bound=field.POSITIVE),
    }


def _finetune() -> Block:
    holdout = Field(0.2, "Share of the labels on which l2, and the learning rate, are chosen.", bound=field.PART)
    return blocks.evaluation("finetune") | {
        "augment": blocks.crop_and_flip(),
        "optimizer": blocks.sgd(learning_rate=0.05),
        "epochs": Field(30.0, "Length of the training.", bound=field.POSITIVE),
        "min_steps": Field(
            0, "Train for at least this many steps: a handful of labels is less than a batch.", bound=field.NOT_NEGATIVE
        ),
        "init_classifier": Field(
            "random",
            "probe: start from the linear probe of the same labels. From scratch it is always random.",
            choices=choices.INIT_CLASSIFIERS,
        ),
        "freeze_below": Field(
            0,
            "With fewer labels, a pretrained network keeps its BatchNorm statistics: those of a few labelled images are noise.",
            bound=field.NOT_NEGATIVE,
        ),
        "learning_rates": Field(
            (),
            "Below `choose_below` labels the best of these, on held-out labels, replaces optimizer.learning_rate.",
            bound=field.POSITIVE_NUMBERS_OR_NONE,
        ),
        "rates_by_labels": Field(
            False, "Where learning_rates is empty, rates that suit the number of labels; see configs/finetune.py."
        ),
        "choose_below": Field(
            5000, "With as many labels, or more, no rate is chosen: the middle one is taken.", bound=field.NOT_NEGATIVE
        ),
        "lbfgs": blocks.lbfgs() | {"holdout": holdout},
    }


def _transform_probe() -> Block:
    return blocks.evaluation("transform_probe") | {
        "transforms": Field(TRANSFORMS, "Which transformations to recognise.", bound=_TRANSFORMS),
        "noise_std": Field(0.1, "Standard deviation of the noise.", bound=field.POSITIVE),
        "classifier": Field("mlp", "mlp has one hidden layer, as in the paper.", choices=choices.TRANSFORM_CLASSIFIERS),
        "hidden": Field(256, "Units of the hidden layer.", bound=field.AT_LEAST_1),
        "train_images": Field(5000, "At most; each is used once in every form.", bound=field.AT_LEAST_1),
    }


def _distill() -> Block:
    return blocks.evaluation("distill") | {
        "teacher": Field(None, "Workdir of a fine-tuning run with one subset, of a subset, or one checkpoint.", str),
        "temperature": Field(1.0, "Of both distributions over the classes.", bound=field.POSITIVE),
        "augment": blocks.crop_and_flip(),
        "optimizer": blocks.optimizer(),
        "epochs": Field(100.0, "Length of the training.", bound=field.POSITIVE),
    }


def _transfer() -> Block:
    block = blocks.evaluation("transfer")
    for name in ("label_fraction", "labels_per_class", "label_seeds"):
        del block[name]
    val_split = Field(None, "Images on which to choose, as train_split. Unset: a share of the training images.", str)
    return block | {
        "data": block["data"] | {"val_split": val_split},
        "protocol": Field(
            "lbfgs",
            "lbfgs: on features of the frozen encoder; finetune: the whole network.",
            choices=choices.TRANSFER_PROTOCOLS,
        ),
        "metric": Field(
            "top1",
            "What is optimised and reported; map11 where images have several classes.",
            choices=choices.TRANSFER_METRICS,
        ),
        "holdout": Field(0.2, "Share of the training images to choose on, without a val_split.", bound=field.PART),
        "lbfgs": blocks.lbfgs(),
        "grid": {
            "learning_rates": Field(
                _geomspace(1e-4, 1e-1, 7), "Fine-tuning: one training for each pair.", bound=field.POSITIVE_NUMBERS
            ),
            "weight_decays": Field(
                (0.0, *_geomspace(1e-6, 1e-3, 7)), "Divided by the learning rate.", bound=field.NUMBERS_FROM_0
            ),
        },
        "steps": Field(20_000, "Steps of each fine-tuning.", bound=field.AT_LEAST_1),
        "augment": blocks.crop_and_flip(),
        "optimizer": blocks.sgd(scaling="none"),
    }


def _knn() -> Block:
    return blocks.evaluation("knn") | {
        "neighbours": Field(20, "How many training images vote.", bound=field.AT_LEAST_1),
        "temperature": Field(0.1, "Of the weights of the votes.", bound=field.POSITIVE),
        "map_points": Field(2000, "Test images in the 2-D map; 0: no map.", bound=field.NOT_NEGATIVE),
        "shown_images": Field(8, "Test images in the picture of neighbours; 0: no picture.", bound=field.NOT_NEGATIVE),
    }


def _geomspace(first: float, last: float, number: int) -> tuple[float, ...]:
    return tuple(float(f"{first * (last / first) ** (place / (number - 1)):.4g}") for place in range(number))


_BLOCKS = {
    "pretrain": _pretrain,
    "linear_probe": _linear_probe,
    "knn": _knn,
    "finetune": _finetune,
    "distill": _distill,
    "transfer": _transfer,
    "transform_probe": _transform_probe,
}
assert _BLOCKS.keys() == KINDS.keys()


def fields_of(kind: str) -> dict[str, Field]:
    """Every field of a kind of run: `{"optimizer.name": Field(...), ...}`."""
    return field.flatten(_BLOCKS[kind]())


def defaults(kind: str) -> ml_collections.ConfigDict:
    """The config of a kind of run with every field at its default."""
    return field.to_config(_BLOCKS[kind]())


def pretrain() -> ml_collections.ConfigDict:
    """All fields of a pretraining run, at the paper's ImageNet values where the paper has one."""
    return defaults("pretrain")


def linear_probe() -> ml_collections.ConfigDict:
    """All fields of a linear probe: a linear classifier on a frozen encoder (paper section 4.2, appendix B.6, B.8)."""
    return defaults("linear_probe")


def knn() -> ml_collections.ConfigDict:
    """All fields of a nearest-neighbour evaluation (weighted vote; Wu et al. 2018, arXiv 1805.01978, section 3.4)."""
    return defaults("knn")


def finetune() -> ml_collections.ConfigDict:
    """All fields of a fine-tuning run: the whole network on some of the labels (paper section 4.2, appendix B.5)."""
    return defaults("finetune")


def distill() -> ml_collections.ConfigDict:
    """All fields of a distillation: a student learns from a fine-tuned teacher (SimCLRv2 section 3.3, arXiv 2006.10029)."""
    return defaults("distill")


def transfer() -> ml_collections.ConfigDict:
    """All fields of an evaluation on another data set (paper appendix B.8)."""
    return defaults("transfer")


def transform_probe() -> ml_collections.ConfigDict:
    """All fields of predicting from representations how an image was transformed (paper section 4.2, table 3)."""
    return defaults("transform_probe")
