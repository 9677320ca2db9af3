"""Refuses configs that would fail, or quietly do nothing, only after expensive work."""

import math
import re

import ml_collections

from simclr_jax.config import fields as all_fields
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.errors import nearest


def check_fields(config: ml_collections.ConfigDict, schema: ml_collections.ConfigDict) -> None:
    """Refuses fields that `schema` does not have (a config file can invent some) and values of the wrong type."""
    known, given = saved_config.flatten(schema), saved_config.flatten(config)
    for key, value in given.items():
        if key not in known:
            raise UserError(f"config.{key} is not a field that is known{nearest(key, known)}.")
        default = known[key]
        right = default is None or value is None or isinstance(value, type(default))
        if not right and not (isinstance(default, float) and isinstance(value, int)):
            raise UserError(f"config.{key} is {value!r}, but should be of type {type(default).__name__}.")
    missing = known.keys() - given.keys()
    if missing:
        raise UserError(f"the config lacks the fields {listed(missing)}: start it from simclr_jax.config's defaults.")


def require(config: ml_collections.ConfigDict, *fields: str, hint: str) -> None:
    """A clear error where one of `fields` is None."""
    flat = saved_config.flatten(config)
    for field in fields:
        if flat[field] is None:
            raise UserError(f"config.{field} is not set: {hint}")


def check_values(config: ml_collections.ConfigDict, device_count: int) -> None:
    """Refuses values that would fail, or quietly do nothing, only after expensive work. Common to all binaries."""
    flat = saved_config.flatten(config)

    def check(field: str, right: bool, what: str) -> None:
        if field in flat and not right:
            raise UserError(f"config.{field} is {flat[field]!r}, but must be {what}.")

    def value(field: str, default=1):
        found = flat.get(field)
        return default if found is None else found

    batch = flat["batch_size"]
    check("batch_size", batch > 0, "positive")
    if batch % device_count:
        lower, upper = batch // device_count * device_count, -(-batch // device_count) * device_count
        near = f"{lower} or {upper}" if lower else f"{upper}"
        raise UserError(
            f"config.batch_size is {batch}, which {device_count} devices cannot share equally: take {near}."
        )
    parts = value("microbatches")
    check("microbatches", parts >= 1, "at least 1")
    if batch // device_count % parts:
        each = batch // device_count
        divisors = ", ".join(str(number) for number in range(1, min(each, 64) + 1) if each % number == 0)
        raise UserError(
            f"config.microbatches is {parts}, which does not divide the {each} images on each device: one of {divisors}."
        )
    for field in (
        "epochs",
        "loss.temperature",
        "loss.margin",
        "temperature",
        "log_every_steps",
        "checkpoint.every_steps",
    ):
        check(field, value(field) > 0, "positive")
    for field in (
        "checkpoint.keep",
        "neighbours",
        "data.image_size",
        "head.dim",
        "head.layers",
        "lbfgs.l2_values",
        "hidden",
    ):
        check(field, value(field) >= 1, "at least 1")
    for op in ("flip", "rotate", "jitter", "grayscale", "sobel", "blur", "noise", "cutout"):
        check(f"augment.{op}_prob", 0 <= value(f"augment.{op}_prob") <= 1, "a probability in [0, 1]")
    blur, size = value("augment.blur_prob", 0), value("data.image_size", 224)
    if blur > 0 and size < 20:
        raise UserError(
            f"config.augment.blur_prob is {blur}, but with config.data.image_size={size} the kernel of the blur, a tenth of "
            "the side, is a single pixel and does nothing: set it to 0, or take images of 20 px or more."
        )
    check("augment.noise_deviation", value("augment.noise_deviation") > 0, "positive")
    check("augment.cutout_side", 0 < value("augment.cutout_side") <= 1, "a share in (0, 1]")
    for field in ("strength", "brightness", "contrast", "saturation"):
        check(f"augment.{field}", value(f"augment.{field}") >= 0, "at least 0")
    for field in ("crop_area", "crop_aspect", "blur_sigma"):
        low, high = value(f"augment.{field}", (1, 1))
        top = 1 if field == "crop_area" else math.inf
        check(f"augment.{field}", 0 < low <= high <= top, f"(low, high) with 0 < low <= high <= {top}")
    hue = value("augment.hue", 0) * value("augment.strength")
    check("augment.hue", 0 <= hue <= 1, "in [0, 1] after multiplication with config.augment.strength")
    check("data.max_bad_fraction", 0 <= value("data.max_bad_fraction", 0) <= 1, "a share in [0, 1]")
    check("data.eval_crop", 0 < value("data.eval_crop") <= 1, "in (0, 1]")
    check("compute_dtype", flat["compute_dtype"] in ("float32", "bfloat16", "float64"), "float32 or bfloat16")
    check("label_fraction", 0 < value("label_fraction") <= 1, "in (0, 1]: 0.01 for 1 %")
    check("labels_per_class", value("labels_per_class", 0) >= 0, "at least 0")
    check("label_seeds", len(value("label_seeds", (0,))) > 0, "at least one seed")
    check("init", value("init", "random") in ("pretrained", "random"), "'pretrained' or 'random'")
    features = re.fullmatch(r"h|z|g[1-9]\d*", value("features", "h"))
    check("features", features is not None, "'h', 'z', or 'g1', 'g2', ... for a layer of the projection head")
    check("protocol", "metric" in flat or value("protocol", "sgd") in ("lbfgs", "sgd"), "'lbfgs' or 'sgd'")
    check("lbfgs.holdout", 0 < value("lbfgs.holdout", 0.5) < 1, "a share in (0, 1)")
    check("holdout", 0 < value("holdout", 0.5) < 1, "a share in (0, 1)")
    check("steps", value("steps") >= 1, "at least 1")
    check("grid.learning_rates", all(rate > 0 for rate in value("grid.learning_rates", (1,))), "positive numbers")
    check("grid.weight_decays", all(decay >= 0 for decay in value("grid.weight_decays", (1,))), "numbers from 0 up")
    for name in ("learning_rates", "weight_decays"):
        check(f"grid.{name}", len(value(f"grid.{name}", (1,))) > 0, "at least one number")
    if "metric" in flat and flat["protocol"] not in ("lbfgs", "finetune"):
        raise UserError(f"config.protocol is {flat['protocol']!r}, but must be 'lbfgs' or 'finetune'.")
    for field, choices in {
        "metric": ("top1", "mean_per_class", "map11"),
        "head.kind": ("none", "linear", "nonlinear"),
        "remat": ("none", "block", "stage"),
        "augment.where": ("host", "device"),
        "classifier": ("mlp", "linear"),
        "loss.name": ("nt_xent", "nt_logistic", "margin_triplet"),
        "loss.method": ("auto", "blocks", "dense"),
        "optimizer.name": ("lars", "sgd", "adamw"),
        "optimizer.scaling": ("linear", "sqrt", "none"),
        "model.stem": ("imagenet", "cifar"),
        "model.depth": (18, 34, 50, 101, 152, 200),
        "data.source": ("tfds", "folder", "digits"),
    }.items():
        check(field, flat.get(field) is None or flat[field] in choices, f"one of {', '.join(map(str, choices))}")
    asked, known = set(value("transforms", all_fields.TRANSFORMS).split()), set(all_fields.TRANSFORMS.split())
    check("transforms", bool(asked) and asked <= known, f"some of {all_fields.TRANSFORMS!r}, with spaces between")
    sk_ratio = value("model.sk_ratio", 0.0)
    check("model.sk_ratio", 0 <= sk_ratio <= 1, "a share in [0, 1]")
    if sk_ratio > 0 and value("model.depth", 50) < 50:
        raise UserError(f"config.model.sk_ratio is {sk_ratio}, but selective kernels need a depth of 50 or more.")
    if value("loss.semi_hard", False) and flat["loss.name"] == "nt_xent":
        raise UserError(
            "config.loss.semi_hard is True, but nt_xent weighs all negatives by itself: set it to False, or config.loss.name "
            "to nt_logistic or margin_triplet."
        )
    width = value("model.width")
    check("model.width", width > 0 and float(64 * width).is_integer(), "positive, with 64 * width a whole number")
