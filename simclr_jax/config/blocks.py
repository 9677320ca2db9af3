"""The blocks of fields that several kinds of runs have in common."""

import dataclasses
import re

import simclr_jax.config.choices as choices
import simclr_jax.config.field as field
from simclr_jax.config.field import Block
from simclr_jax.config.field import Bound
from simclr_jax.config.field import Field

_FEATURES = Bound(
    "'h', 'z', or 'g1', 'g2', ... for a layer of the projection head",
    lambda value: re.fullmatch(r"h|z|g[1-9]\d*", value) is not None,
)


def data() -> Block:
    return {
        "source": Field(
            None,
            "Where the images come from: a TFDS data set, a folder, records of simclr_jax.prepare, or embedded digits.",
            str,
            choices.SOURCES,
        ),
        "name": Field(None, "TFDS name, also with config and version: cifar10, imagenet2012_subset/1pct.", str),
        "root": Field(
            None,
            "Folder: the folder, or a text file with the path of an image in each line, perhaps with its label after a tab. "
            "Records: the --output of simclr_jax.prepare. TFDS: its data_dir; unset: TFDS's own default.",
            str,
        ),
        "labels": Field(
            None,
            "Folder: a CSV or Parquet table with the columns path (in the folder, or absolute), class and perhaps split. Only "
            "images in it are used. Without the column split all of them are training images.",
            str,
        ),
        "train_split": Field(
            "train",
            "TFDS: a split expression, as train[:90%]. Folder, records: the sub-folder of root with training images.",
        ),
        "test_split": Field(None, "The same for test images. Unset: the first of test, val, validation.", str),
        "image_size": Field(
            None, "Side in pixels of the square images that the network sees.", int, bound=field.AT_LEAST_1
        ),
        "eval_crop": Field(
            None,
            "Test images are the central square of this share of the shorter side: 0.875 at 224 px, 1 for small images.",
            float,
            bound=field.SHARE,
        ),
        "memory_mib": Field(
            2048,
            "A TFDS split up to this size is held in memory, encoded, and shuffled perfectly; a larger one is streamed. One "
            "in TFDS's array_record format is never streamed, and stays on the disk or in the bucket.",
            bound=field.NOT_NEGATIVE,
        ),
        "shuffle_buffer": Field(16_384, "Examples in the shuffle buffer of a streamed split.", bound=field.AT_LEAST_1),
        "resident": Field(
            False,
            "Pretraining keeps all images in device memory and augments them there, so the host does no input work. For "
            "small images of one size. The order and the random numbers differ from the host's.",
        ),
    } | _reading()


def _reading() -> Block:
    """How image files are read."""
    return {
        "max_bad_fraction": Field(
            0.01,
            "Unreadable files are skipped and replaced up to this share of the data set, and ten in any case; beyond it the "
            "run stops. 0: at the first one.",
            bound=field.SHARE_OR_0,
        ),
        "truncated_jpeg": Field(
            "skip",
            "JPEG files that lack their last bytes: skip as unreadable, or read as viewers do, with grey for what is missing.",
            choices=choices.TRUNCATED,
        ),
        "reduced_decode": Field(
            None,
            "Decode a JPEG at 1/2, 1/4 or 1/8 of its size where its crops keep as many pixels as the view has: faster for "
            "large photographs. Unset: true; false where a run, or the pretraining that it evaluates, began without it.",
            bool,
        ),
    }


def model() -> Block:
    return {
        "depth": Field(None, "Depth of the ResNet.", int, choices.DEPTHS),
        "width": Field(
            None, "Width multiplier: 1, 2, 4; a fraction such as 0.25 for small machines.", float, bound=field.WIDTH
        ),
        "stem": Field(
            None,
            "First layers: 7x7 and max pool, or 3x3 for small images; cifar_wide pads that by two pixels, as solo-learn.",
            str,
            choices.STEMS,
        ),
        "sk_ratio": Field(
            None,
            "Above 0: selective kernels, with mixing networks of this share of the width (SimCLRv2: 0.0625).",
            float,
            bound=field.SHARE_OR_0,
        ),
        "padding": Field(
            None,
            "Of the max pool: same as the reference (at the end for even sizes), torch as PyTorch (both sides).",
            str,
            choices.PADDINGS,
        ),
        "stage1_projection": Field(
            None,
            "Project the shortcut of stage 1 too, as the reference does. PyTorch's ResNet-18 and -34 do not.",
            bool,
        ),
        "input_mean": Field(
            None, "Subtracted from the images in [0, 1], in the network.", tuple, bound=field.THREE_NUMBERS
        ),
        "input_std": Field(
            None, "Then they are divided by this; 1 in the reference.", tuple, bound=field.THREE_POSITIVE
        ),
    }


def of_the_reference() -> Block:
    """The fields of `model` that have a default, which is the reference's."""
    fields = model()
    defaults = {"width": 1.0, "stem": "imagenet", "sk_ratio": 0.0} | field.NETWORK_OF_THE_REFERENCE
    return {name: dataclasses.replace(fields[name], default=value) for name, value in defaults.items()}


def optimizer(**changes) -> Block:
    defaults = {
        "name": "lars",
        "learning_rate": 0.3,
        "scaling": "linear",
        "warmup_epochs": 10.0,
        "nesterov": False,
        "weight_decay": 1e-6,
    } | changes
    return {
        "name": Field(defaults["name"], "Optimiser.", choices=choices.OPTIMIZERS),
        "learning_rate": Field(defaults["learning_rate"], "Before scaling.", bound=field.POSITIVE),
        "scaling": Field(
            defaults["scaling"],
            "How the learning rate grows with the global batch B: linear B / 256, sqrt sqrt(B), none 1.",
            choices=choices.SCALINGS,
        ),
        "warmup_epochs": Field(defaults["warmup_epochs"], "Linear warm-up.", bound=field.NOT_NEGATIVE),
        "momentum": Field(0.9, "LARS and SGD only.", bound=field.DECAY_RATE),
        "nesterov": Field(defaults["nesterov"], "Nesterov momentum."),
        "weight_decay": Field(defaults["weight_decay"], "Of kernels.", bound=field.NOT_NEGATIVE),
        "trust_coefficient": Field(0.001, "LARS only.", bound=field.POSITIVE),
        "b1": Field(0.9, "AdamW only.", bound=field.DECAY_RATE),
        "b2": Field(0.999, "AdamW only.", bound=field.DECAY_RATE),
    }


def _probability(default: float, doc: str) -> Field:
    return Field(default, f"Probability of {doc}", bound=field.PROBABILITY)


def family(jitter: float = 0.8, grayscale: float = 0.2, blur: float = 0.5) -> Block:
    """The paper's augmentation family (appendix A), and what its composition experiment adds (figure 5)."""
    return {
        "crop": Field(True, "Random resized crop; False: the central square."),
        "crop_area": Field((0.08, 1.0), "Least and largest share of the image's area.", bound=field.interval(1)),
        "crop_aspect": Field((3 / 4, 4 / 3), "Least and largest ratio of width to height.", bound=field.interval()),
        "flip_prob": _probability(0.5, "a horizontal flip."),
        "jitter_prob": _probability(jitter, "colour jitter."),
        "strength": Field(
            1.0, "Scales the four bounds of the jitter: 1 on ImageNet, 0.5 on CIFAR-10.", bound=field.NOT_NEGATIVE
        ),
        "brightness": Field(0.8, "Bound b of the brightness factor, in [1 - b, 1 + b].", bound=field.NOT_NEGATIVE),
        "contrast": Field(0.8, "The same for contrast.", bound=field.NOT_NEGATIVE),
        "saturation": Field(0.8, "The same for saturation.", bound=field.NOT_NEGATIVE),
        "hue": Field(0.2, "Bound of the hue's rotation, in turns.", bound=field.NOT_NEGATIVE),
        "grayscale_prob": _probability(grayscale, "greyscale."),
        "blur_prob": _probability(blur, "Gaussian blur; 0 on CIFAR-10."),
        "blur_sigma": Field((0.1, 2.0), "Least and largest sigma, in pixels.", bound=field.interval()),
        "rotate_prob": _probability(0.0, "a rotation by 0, 90, 180 or 270 degrees."),
        "sobel_prob": _probability(0.0, "a Sobel filter."),
        "noise_prob": _probability(0.0, "Gaussian noise."),
        "noise_std": Field(0.1, "Standard deviation of the noise.", bound=field.POSITIVE),
        "cutout_prob": _probability(0.0, "cutout."),
        "cutout_side": Field(0.5, "Side of its square, as a share of the image's side.", bound=field.SHARE),
    }


def augment() -> Block:
    return family() | {
        "where": Field(
            "host",
            "Where everything after the crop runs: TensorFlow on the host, or the training step on the device, so that the "
            "host only opens, crops and resizes. The same family with different random numbers. auto: on the device, unless it "
            "is a CPU.",
            choices=choices.PLACES_OR_AUTO,
        ),
        "one_branch": Field(
            False,
            "Both views share one random crop; everything else, another crop included, is for the first view only.",
        ),
    }


def crop_and_flip() -> Block:
    """How the paper trains with labels: the rest of the family is off."""
    return family(jitter=0.0, grayscale=0.0, blur=0.0)


def run(kind: str) -> Block:
    return {
        "kind": Field(kind, "The kind of run: the name of its command.", choices=(kind,)),
        "seed": Field(0, "Of weights, order and augmentation.", bound=field.SEED),
        "compute_dtype": Field(
            "float32", "Parameters, statistics and losses are float32; float64 is for tests.", choices=choices.DTYPES
        ),
        "remat": Field(
            "none",
            "Activations that are computed again for the gradient instead of kept: of every block, or stage.",
            choices=choices.REMAT,
        ),
        "log_every_steps": Field(50, "Metrics are written after this many steps.", bound=field.AT_LEAST_1),
        "checkpoint": {
            "every_steps": Field(1000, "Save after this many steps.", bound=field.AT_LEAST_1),
            "every_minutes": Field(
                10.0, "And after this time since the last one; 0: by steps only.", bound=field.NOT_NEGATIVE
            ),
            "keep": Field(2, "How many of the newest checkpoints are kept.", bound=field.AT_LEAST_1),
            "keep_every_steps": Field(0, "Checkpoints that are always kept; 0: none.", bound=field.NOT_NEGATIVE),
        },
        "mesh": {
            "data": Field(-1, "Devices over which the batch is split; -1: all.", bound=field.MINUS_1_OR_POSITIVE),
            "fsdp": Field(
                1,
                "Devices over which large parameters and their optimiser state are split as well, for networks that are too "
                "large for one device.",
                bound=field.AT_LEAST_1,
            ),
        },
    }


def evaluation(kind: str) -> Block:
    unset = {
        name: dataclasses.replace(field, default=None, given_type=str, doc=f"{field.doc} Unset: as in pretraining.")
        for name, field in data().items()
        if name in ("train_split", "truncated_jpeg")
    }
    return run(kind) | {
        "features": Field(
            "h",
            "h, the representation; z, the output of the projection head g; or g1, g2, ..., the output of one of its "
            "layers. Fine-tuning trains the layers up to there as well (SimCLRv2: g1).",
            bound=_FEATURES,
        ),
        "init": Field("pretrained", "random: the same network, untrained (from scratch).", choices=choices.INITS),
        "pretrained": Field(None, "The checkpoint that is evaluated; filled in from --pretrained.", str),
        "data": data() | unset,
        "model": model(),
        "label_fraction": Field(1.0, "Share of the labels to use: 0.01 for 1 %. Class-balanced.", bound=field.SHARE),
        "labels_per_class": Field(0, "Labels of each class to use; 0: by the share.", bound=field.NOT_NEGATIVE),
        "label_seeds": Field((0,), "One subset of the labels for each seed.", bound=field.SEEDS),
        "batch_size": Field(256, "Images over all devices and hosts.", bound=field.AT_LEAST_1),
    }


def lbfgs() -> Block:
    return {
        "standardize": Field(True, "Features to mean 0 and standard deviation 1 first."),
        "l2_min": Field(1e-6, "Least l2 penalty.", bound=field.POSITIVE),
        "l2_max": Field(1e5, "Largest l2 penalty.", bound=field.POSITIVE),
        "l2_values": Field(45, "How many, log-spaced; 1: the one in the middle.", bound=field.AT_LEAST_1),
        "max_iterations": Field(1000, "For each value of l2.", bound=field.AT_LEAST_1),
    }


def sgd(**changes) -> Block:
    return optimizer(**({"name": "sgd", "warmup_epochs": 0.0, "nesterov": True, "weight_decay": 0.0} | changes))
