"""What a file in `configs/` is made of: all fields with their default values, and the arguments of such a file.

`pretrain()`, `linear_probe()`, `finetune()` and `knn()` hold every field that exists; a file in `configs/` starts from
one of them and changes what its setting needs. A field that is None there has to be given, or is taken from the
pretraining config of the checkpoint that is evaluated.
"""

from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.errors import nearest

# What a transform probe can ask for.
TRANSFORMS = "grayscale rotate noise sobel"


def _data() -> dict:
    return {
        # Where the images come from: "tfds" (any TensorFlow Datasets name), "folder", or "digits" (embedded).
        "source": placeholder(str),
        # TFDS: name, also with a config and version: "cifar10", "imagenet2012_subset/1pct".
        "name": placeholder(str),
        # Folder: the folder. TFDS: its data_dir; None is TFDS's own default.
        "root": placeholder(str),
        # TFDS: split expressions ("train[:90%]"). Folder: sub-folders of root; an unset test split is the first that
        # exists of test, val, validation.
        "train_split": "train",
        "test_split": placeholder(str),
        # Side of the square images that the network sees, in pixels.
        "image_size": placeholder(int),
        # Test images are the central square of this share of the shorter side: 0.875 at 224 px, 1 for small images.
        "eval_crop": placeholder(float),
        # A TFDS split up to this size is held in memory, encoded, and shuffled perfectly; a larger one is streamed
        # through a shuffle buffer of this many examples.
        "memory_mib": 2048,
        "shuffle_buffer": 16_384,
        # Pretraining with all images on the devices, decoded, split over them and augmented there: no work for the host at
        # all. For small images of one size. The order and the augmentations' random numbers are others than the host's.
        "resident": False,
        # Unreadable files are skipped and replaced up to this share of the data set; beyond it the run stops.
        "max_bad_fraction": 0.01,
    }


def _model() -> dict:
    return {
        "depth": placeholder(int),  # 18, 34, 50, 101, 152, 200
        "width": placeholder(float),  # 1, 2, 4; a fraction such as 0.25 for small machines
        "stem": placeholder(str),  # "imagenet" or "cifar"
        # Above 0, selective kernels, with mixing networks of this share of the width (SimCLRv2: 0.0625).
        "sk_ratio": placeholder(float),
    }


def _optimizer(**changes) -> dict:
    fields = {
        "name": "lars",  # "lars", "sgd", "adamw"
        "learning_rate": 0.3,
        "scaling": "linear",  # with the global batch B: "linear" B / 256, "sqrt" sqrt(B), "none" 1
        "warmup_epochs": 10.0,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-6,
        "trust_coefficient": 0.001,
        "b1": 0.9,  # AdamW only
        "b2": 0.999,
    }
    return fields | changes


def _family() -> dict:
    """The paper's family (appendix A). Turn an op off with `crop=False`, or with a probability or strength of 0."""
    return {
        "crop": True,
        "crop_area": (0.08, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "flip_prob": 0.5,
        "jitter_prob": 0.8,
        "strength": 1.0,  # s: scales the four ops below; 1 on ImageNet, 0.5 on CIFAR-10
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,  # 0 on CIFAR-10
        "blur_sigma": (0.1, 2.0),
        # Of the composition experiment (figure 5); the paper's own recipe does without.
        "rotate_prob": 0.0,  # by 0, 90, 180 or 270 degrees
        "sobel_prob": 0.0,
        "noise_prob": 0.0,
        "noise_deviation": 0.1,
        "cutout_prob": 0.0,
        "cutout_side": 0.5,  # of its square, as a share of the image's side
    }


def _augment() -> dict:
    return _family() | {
        # Where all behind the crop is done: on the "host", by TensorFlow, or in the training step on the "device", which
        # leaves the host nothing to do but open, crop and resize. The same family, other random numbers.
        "where": "host",
        # Both views have one random crop in common, and everything else (another crop, too) is for the first view only.
        "one_branch": False,
    }


def _crop_and_flip() -> dict:
    """How the paper trains with labels; the rest of the family is there, but off."""
    return _family() | {"jitter_prob": 0.0, "grayscale_prob": 0.0, "blur_prob": 0.0}


def _run() -> dict:
    return {
        "seed": 0,
        "compute_dtype": "float32",  # or "bfloat16"; parameters, statistics and losses are float32
        # Activations that are computed again for the gradient instead of kept: "none", of every "block", or "stage".
        "remat": "none",
        "log_every_steps": 50,
        "checkpoint": {"every_steps": 1000, "keep": 2, "keep_every_steps": 0},
        # Devices: batches are split over both axes; over fsdp also large parameters and their optimiser state, for
        # networks that are too large for a chip. data=-1: as many as there are.
        "mesh": {"data": -1, "fsdp": 1},
    }


def pretrain() -> ml_collections.ConfigDict:
    """All fields of a pretraining run, at the paper's ImageNet values where the paper has one."""
    return ml_collections.ConfigDict(
        _run()
        | {
            "data": _data(),
            "augment": _augment(),
            "model": _model() | {"width": 1.0, "stem": "imagenet", "sk_ratio": 0.0},
            "head": {"kind": "nonlinear", "layers": 2, "dim": 128},
            "loss": {
                # "nt_xent", or what the paper compares it with: "nt_logistic", "margin_triplet".
                "name": "nt_xent",
                "temperature": 0.1,
                "normalize": True,  # l2-normalise the embeddings
                "margin": 0.8,  # margin_triplet only
                "semi_hard": False,  # nt_logistic and margin_triplet: one negative for each view, a semi-hard one
                "method": "auto",  # "blocks": never more than a block of logits; "dense"; "auto": the faster one
            },
            "optimizer": _optimizer(),
            "batch_size": 4096,  # global: images over all devices and hosts
            # Embed the batch in so many parts: the contrast is that of all images, the memory that of one part, the time a
            # third more. BatchNorm uses the statistics of each part.
            "microbatches": 1,
            "epochs": 100.0,
            # Train a linear classifier beside the encoder, on features without gradient, where there are labels.
            "online_classifier": True,
            # Test that classifier after so many steps, and save; 0: only at the end.
            "evaluate_every_steps": 0,
        }
    )


def _evaluation() -> dict:
    return _run() | {
        # What is evaluated: "h", the representation; "z", the output of the projection head g; or "g1", "g2", ..., the output
        # of one of its layers. Fine-tuning trains the layers up to there as well (SimCLRv2: from "g1").
        "features": "h",
        "init": "pretrained",  # or "random": the same network, untrained (from scratch)
        "pretrained": placeholder(str),  # the checkpoint that was evaluated; filled in from --pretrained
        # None here: as in pretraining.
        "data": _data() | {"train_split": placeholder(str)},
        "model": _model(),
        # Which labels may be used: a share of them, or this many per class (0: by the share). Class-balanced; one
        # draw for every seed.
        "label_fraction": 1.0,
        "labels_per_class": 0,
        "label_seeds": (0,),
        "batch_size": 256,
    }


def _lbfgs() -> dict:
    return {
        "standardize": True,  # features to mean 0 and deviation 1 first
        "l2_min": 1e-6,
        "l2_max": 1e5,
        "l2_values": 45,  # log-spaced
        "max_iterations": 1000,
    }


def linear_probe() -> ml_collections.ConfigDict:
    """All fields of a linear probe: a linear classifier on a frozen encoder (paper section 4.2, appendix B.6, B.8)."""
    return ml_collections.ConfigDict(
        _evaluation()
        | {
            # "lbfgs": on cached features, l2 chosen on held-out labels; "sgd": the paper's ImageNet protocol.
            "protocol": "lbfgs",
            "lbfgs": _lbfgs() | {"holdout": 0.2},  # share of the labels on which l2 is chosen
            "augment": _crop_and_flip(),
            "optimizer": _optimizer(name="sgd", learning_rate=0.1, warmup_epochs=0.0, nesterov=True, weight_decay=0.0),
            "epochs": 90.0,
        }
    )


def finetune() -> ml_collections.ConfigDict:
    """All fields of a fine-tuning run: the whole network on some of the labels (paper section 4.2, appendix B.5)."""
    return ml_collections.ConfigDict(
        _evaluation()
        | {
            "augment": _crop_and_flip(),
            "optimizer": _optimizer(name="sgd", learning_rate=0.05, warmup_epochs=0.0, nesterov=True, weight_decay=0.0),
            "epochs": 30.0,
            "min_steps": 0,  # train for at least so many steps: with a handful of labels an epoch is less than a batch
        }
    )


def transform_probe() -> ml_collections.ConfigDict:
    """All fields of predicting from representations what was done to an image (paper section 4.2, table 3)."""
    return ml_collections.ConfigDict(
        _evaluation()
        | {
            "transforms": TRANSFORMS,  # which questions are asked
            "noise_deviation": 0.1,
            "classifier": "mlp",  # with one hidden layer, as in the paper; or "linear"
            "hidden": 256,
            "train_images": 5000,  # at most; each is seen once in every form
        }
    )


def distill() -> ml_collections.ConfigDict:
    """All fields of a distillation: a student learns from a fine-tuned teacher (SimCLRv2 section 3.3, arXiv 2006.10029)."""
    return ml_collections.ConfigDict(
        _evaluation()
        | {
            # The workdir of a fine-tuning run (with one draw), of a draw, or one checkpoint.
            "teacher": placeholder(str),
            "temperature": 1.0,
            "augment": _crop_and_flip(),
            "optimizer": _optimizer(),
            "epochs": 100.0,
        }
    )


def transfer() -> ml_collections.ConfigDict:
    """All fields of an evaluation on another data set (paper appendix B.8)."""
    fields = _evaluation()
    for field in ("label_fraction", "labels_per_class", "label_seeds"):
        del fields[field]
    fields["data"] |= {
        # Where hyper-parameters are chosen; named as train_split is. None: on a share of the training split.
        "val_split": placeholder(str),
    }
    return ml_collections.ConfigDict(
        fields
        | {
            "protocol": "lbfgs",  # on the frozen encoder; or "finetune", all of it
            # What is chosen by and reported: "top1", "mean_per_class", or where images have several classes "map11".
            "metric": "top1",
            "holdout": 0.2,  # share of the training split, without a val_split
            "lbfgs": _lbfgs(),
            # Fine-tuning, once for each pair. Weight decays are divided by the learning rate.
            "grid": {
                "learning_rates": _geomspace(1e-4, 1e-1, 7),
                "weight_decays": (0.0, *_geomspace(1e-6, 1e-3, 7)),
            },
            "steps": 20_000,
            "augment": _crop_and_flip(),
            "optimizer": _optimizer(name="sgd", scaling="none", warmup_epochs=0.0, nesterov=True, weight_decay=0.0),
        }
    )


def _geomspace(first: float, last: float, number: int) -> tuple[float, ...]:
    return tuple(float(f"{first * (last / first) ** (place / (number - 1)):.4g}") for place in range(number))


def knn() -> ml_collections.ConfigDict:
    """All fields of a nearest-neighbour evaluation (weighted vote; Wu et al. 2018, arXiv 1805.01978, section 3.4)."""
    return ml_collections.ConfigDict(
        _evaluation()
        | {
            "neighbours": 20,
            "temperature": 0.1,
            "map_points": 2000,  # test images in the 2-D map of the embeddings; 0 draws none
            "shown_images": 8,  # test images in the picture of nearest neighbours; 0 draws none
        }
    )


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Arguments of a config file: `--config=configs/imagenet.py:depth=50,width=2`, typed as their defaults are.

    Args:
      arg: the text behind the colon, or None. An entry without "=" is the value of the first argument.
      **defaults: every argument with its default value (int, float, bool or str).
    """
    values = ml_collections.ConfigDict(defaults)
    # A long argument may be broken over lines in a shell, behind a comma.
    items = [item.lstrip() for item in (arg or "").split(",")]
    for index, item in enumerate(filter(None, items)):
        key, equals, text = item.partition("=")
        if not equals and index == 0:
            key, text = next(iter(defaults)), item
        if key not in defaults:
            raise UserError(
                f"the config file has no argument {key!r}{nearest(key, defaults)}; it has {listed(defaults)}."
            )
        try:
            values[key] = _parse(text, type(defaults[key]))
        except ValueError:
            kind = type(defaults[key]).__name__
            raise UserError(f"the config argument {key}={text!r} should be of type {kind}.") from None
    return values


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    return kind(text)
