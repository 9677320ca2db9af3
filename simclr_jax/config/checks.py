"""Refuses configs that would fail, or do nothing without saying so, only after expensive work."""

from typing import Any

import ml_collections

from simclr_jax.config import saved as saved_config
from simclr_jax.config.field import Field
from simclr_jax.config.fields import fields_of
from simclr_jax.config.kinds import KINDS
from simclr_jax.errors import UserError
from simclr_jax.errors import listed
from simclr_jax.errors import nearest


def check_fields(config: ml_collections.ConfigDict, schema: ml_collections.ConfigDict) -> None:
    """Refuses a config of another kind, fields that `schema` does not have, and values of the wrong type."""
    known, given = saved_config.flatten(schema), saved_config.flatten(config)
    kind = given.get("kind", schema.kind)
    if kind != schema.kind:
        raise UserError(
            f"config.kind is {kind!r}: this config is for simclr_jax.{kind}, but simclr_jax.{schema.kind} was started."
        )
    fields = fields_of(schema.kind)
    for key, value in given.items():
        if key in saved_config.RENAMED:
            raise UserError(f"config.{key} is called config.{saved_config.RENAMED[key]} now.")
        if key not in known:
            raise UserError(f"config.{key} is not a field that is known{nearest(key, known)}.")
        _check_type(key, value, fields[key])
    missing = known.keys() - given.keys()
    if missing:
        raise UserError(f"the config lacks the fields {listed(missing)}: start it from simclr_jax.config's defaults.")


def _check_type(key: str, value: Any, field: Field) -> None:
    right = field.value_type
    if value is None or (field.word and value == field.word):
        return
    if right is float and isinstance(value, int) and not isinstance(value, bool):
        return
    if right is tuple and isinstance(value, list):  # `flatten` writes tuples as lists
        return
    if not isinstance(value, right) or (right is int and isinstance(value, bool)):
        raise UserError(f"config.{key} is {value!r}, but should be of type {field.type_name}.")


def require(config: ml_collections.ConfigDict, *names: str, hint: str) -> None:
    """A clear error where one of the fields `names` is None."""
    flat = saved_config.flatten(config)
    for name in names:
        if flat[name] is None:
            raise UserError(f"config.{name} is not set: {hint}")


def check_values(config: ml_collections.ConfigDict, device_count: int) -> None:
    """Refuses values that are out of bounds, and values that do not go together.

    Args:
      config: of any kind; unset fields are not checked.
      device_count: over how many devices the batch is split.

    Raises:
      UserError: with the field, its value, and what would be right.
    """
    flat = saved_config.flatten(config)
    if flat["kind"] not in KINDS:
        raise UserError(f"config.kind is {flat['kind']!r}, but must be one of {', '.join(KINDS)}.")
    for name, field in fields_of(flat["kind"]).items():
        problem = field.problem(flat.get(name))
        if problem is not None:
            raise UserError(f"config.{name} is {flat[name]!r}, but must be {problem}.")
    for check in (
        _check_batch,
        _check_data,
        _check_augment,
        _check_model,
        _check_loss,
        _check_lbfgs,
        _check_learning_rates,
    ):
        check(flat, device_count)


def _check_batch(flat: dict[str, Any], device_count: int) -> None:
    batch, parts = flat["batch_size"], flat.get("microbatches", 1)
    if batch == "auto":  # checked when it is a number
        return
    each, rest = divmod(batch, device_count)
    if rest:
        near = f"{each * device_count} or {(each + 1) * device_count}" if each else f"{device_count}"
        raise UserError(
            f"config.batch_size is {batch}, which {device_count} devices cannot share equally: take {near}."
        )
    if parts != "auto" and each % parts:
        divisors = ", ".join(str(number) for number in range(1, min(each, 64) + 1) if each % number == 0)
        # Before JAX is imported the number of devices is not known, and given as 1.
        share = f"{each} images on each device" if device_count > 1 else f"{batch} images of a batch"
        several = ", and on several devices a divisor of the share of one" if device_count == 1 else ""
        raise UserError(
            f"config.microbatches is {parts}, which does not divide the {share}: one of {divisors}{several}."
        )


def _check_data(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    source, root = flat.get("data.source"), flat.get("data.root")
    if source == "digits" and root is not None:
        raise UserError(
            f"config.data.root is {root!r}, but config.data.source is digits, which are no folder: add "
            "--config.data.source=folder."
        )
    labels = flat.get("data.labels")
    if labels and source not in (None, "folder"):
        raise UserError(
            f"config.data.labels is {labels!r}, but the images of config.data.source={source} have their own labels: leave it "
            "unset, or take --config.data.source=folder."
        )


def _check_augment(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    if "augment.blur_prob" not in flat:
        return
    blur, size = flat["augment.blur_prob"], flat.get("data.image_size")
    if blur > 0 and size is not None and size < 20:
        raise UserError(
            f"config.augment.blur_prob is {blur}, but with config.data.image_size={size} the kernel of the blur, a tenth of "
            "the side, is a single pixel and does nothing: set it to 0, or take images of 20 px or more."
        )
    hue = flat["augment.hue"] * flat["augment.strength"]
    if hue > 1:
        raise UserError(
            f"config.augment.hue is {flat['augment.hue']!r}, but must be in [0, 1] after multiplication with "
            "config.augment.strength."
        )


def _check_model(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    sk_ratio, depth = flat.get("model.sk_ratio") or 0.0, flat.get("model.depth")
    if sk_ratio > 0 and depth is not None and depth < 50:
        raise UserError(f"config.model.sk_ratio is {sk_ratio}, but selective kernels need a depth of 50 or more.")
    if flat.get("model.stage1_projection") is False and depth is not None and depth >= 50:
        raise UserError(
            f"config.model.stage1_projection is False, but a ResNet-{depth} is four times as wide after stage 1 as before, so "
            "its shortcut has to be projected."
        )


def _check_loss(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    if flat.get("loss.semi_hard") and flat["loss.name"] == "nt_xent":
        raise UserError(
            "config.loss.semi_hard is True, but nt_xent weighs all negatives by itself: set it to False, or config.loss.name "
            "to nt_logistic or margin_triplet."
        )


def _check_lbfgs(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    low, high = flat.get("lbfgs.l2_min", 1.0), flat.get("lbfgs.l2_max", 1.0)
    if low > high:
        raise UserError(f"config.lbfgs.l2_min is {low:g}, but must be at most config.lbfgs.l2_max={high:g}.")


# What optimizer.learning_rate has to be where it is not used.
RATE_BY_LABELS = 1e-3


def _check_learning_rates(flat: dict[str, Any], device_count: int) -> None:
    del device_count
    rates = flat.get("learning_rates", ())
    rate = flat.get("optimizer.learning_rate")
    if rates and rate not in rates:
        raise UserError(
            f"config.optimizer.learning_rate is {rate:g}, but one of config.learning_rates, "
            f"{', '.join(f'{one:g}' for one in rates)}, is taken: set --config.optimizer.learning_rate={rates[0]:g}, or for a "
            f"single other one also --config.learning_rates={rate:g}."
        )
    if flat.get("rates_by_labels") and not rates and rate != RATE_BY_LABELS:
        raise UserError(
            f"config.optimizer.learning_rate is {rate:g}, but config.rates_by_labels=True takes a rate that suits the number "
            f"of labels: set --config.learning_rates={rate:g} as well."
        )
