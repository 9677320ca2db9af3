"""Optimisers and learning-rate schedules, all through optax (paper sections 2.2 and B.5; reference tf2/lars_optimizer.py)."""

import math

import jax
from ml_collections import ConfigDict
import optax

from simclr_jax.config.choices import OPTIMIZERS
from simclr_jax.config.choices import SCALINGS
from simclr_jax.errors import UserError


def total_steps(num_examples: int, batch_size: int, epochs: float) -> int:
    """Optimiser steps in `epochs` epochs of `num_examples` examples: the reference's `n * epochs // B + 1`."""
    return int(num_examples * epochs) // batch_size + 1


def peak_learning_rate(base: float, scaling: str, batch_size: int) -> float:
    """The learning rate for a global batch: `base * B / 256` ("linear"), `base * sqrt(B)` ("sqrt"), or `base` ("none")."""
    if scaling == "linear":
        return base * batch_size / 256
    if scaling == "sqrt":
        return base * math.sqrt(batch_size)
    if scaling == "none":
        return base
    raise UserError(f"config.optimizer.scaling is {scaling!r}, but must be one of {SCALINGS}.")


def warmup_cosine(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup_steps`, then cosine decay that would reach 0 at `steps`, without restarts.

    The first update has learning rate 0 where there is a warm-up, as in the reference.
    """
    decay = optax.cosine_decay_schedule(peak, max(steps - warmup_steps, 1))
    if warmup_steps == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def make_schedule(optimizer: ConfigDict, *, batch_size: int, num_examples: int, steps: int) -> optax.Schedule:
    """The schedule of `config.optimizer` for a run of `steps` steps: step (int) to learning rate."""
    peak = peak_learning_rate(optimizer.learning_rate, optimizer.scaling, batch_size)
    warmup = round(optimizer.warmup_epochs * num_examples // batch_size)
    if warmup >= steps:
        raise UserError(
            f"config.optimizer.warmup_epochs={optimizer.warmup_epochs:g} is {warmup} steps, but the run has only {steps}: "
            "train for more epochs or warm up for fewer."
        )
    return warmup_cosine(peak, warmup, steps)


def lars_mask(params):
    """Mask of the parameters to which weight decay and the trust ratio apply: kernels, except the online classifier's.

    Biases, BatchNorm scales and offsets (all of rank one) and everything below a key "classifier" are excluded, as the
    reference excludes names with "bias", "batch_normalization" and "head_supervised".
    """

    def is_masked(path, leaf) -> bool:
        return leaf.ndim > 1 and not any(getattr(key, "key", None) == "classifier" for key in path)

    return jax.tree_util.tree_map_with_path(is_masked, params)


def kernel_mask(params):
    """Mask of all kernels, the classifier's included: for weight decay where training the classifier is the aim."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
    optimizer: ConfigDict, learning_rate: optax.ScalarOrSchedule, *, mask=lars_mask
) -> optax.GradientTransformation:
    """The optax optimiser of `config.optimizer`.

    Args:
      optimizer: `name` ("lars", "sgd", "adamw"), `momentum`, `nesterov`, `weight_decay`, `trust_coefficient` and, for
        AdamW, `b1` and `b2`.
      learning_rate: a number or a schedule.
      mask: params to a tree of booleans; where weight decay, and with LARS the trust ratio, apply.
    """
    if optimizer.name == "lars":
        return optax.lars(
            learning_rate,
            weight_decay=optimizer.weight_decay,
            weight_decay_mask=mask,
            trust_coefficient=optimizer.trust_coefficient,
            trust_ratio_mask=mask,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
        )
    if optimizer.name == "sgd":
        decay = optax.add_decayed_weights(optimizer.weight_decay, mask) if optimizer.weight_decay else optax.identity()
        momentum = optimizer.momentum or None
        return optax.chain(decay, optax.sgd(learning_rate, momentum=momentum, nesterov=optimizer.nesterov))
    if optimizer.name == "adamw":
        return optax.adamw(
            learning_rate, b1=optimizer.b1, b2=optimizer.b2, weight_decay=optimizer.weight_decay, mask=mask
        )
    raise UserError(f"config.optimizer.name is {optimizer.name!r}, but must be one of {OPTIMIZERS}.")
