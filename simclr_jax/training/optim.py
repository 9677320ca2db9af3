"""Optimisers and learning-rate schedules, all through optax (paper sections 2.2 and B.5; reference tf2/lars_optimizer.py)."""

import math
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
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


def decay_mask(params):
    """Mask of the parameters to which weight decay applies: all kernels.

    Biases, BatchNorm scales and offsets (all of rank one) are excluded. The reference excludes the classifier too, but adds
    the same decay for it to the loss.
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def trust_ratio_mask(params):
    """Mask of the parameters to which the trust ratio of LARS applies: all kernels except a classifier's.

    The reference excludes names with "bias", "batch_normalization" and "head_supervised", whatever the aim of the
    training. Our classifiers are below the key "classifier".
    """

    def is_masked(path, leaf) -> bool:
        return leaf.ndim > 1 and not any(getattr(key, "key", None) == "classifier" for key in path)

    return jax.tree_util.tree_map_with_path(is_masked, params)


def make_optimizer(optimizer: ConfigDict, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The optax optimiser of `config.optimizer`. Weight decay applies to kernels only.

    Args:
      optimizer: `name` ("lars", "sgd", "adamw"), `momentum`, `nesterov`, `weight_decay`, `trust_coefficient` and, for
        AdamW, `b1` and `b2`.
      learning_rate: a number or a schedule.
    """
    if optimizer.name == "lars":
        return optax.lars(
            learning_rate,
            weight_decay=optimizer.weight_decay,
            weight_decay_mask=decay_mask,
            trust_coefficient=optimizer.trust_coefficient,
            trust_ratio_mask=trust_ratio_mask,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
        )
    if optimizer.name == "sgd":
        decay = (
            optax.add_decayed_weights(optimizer.weight_decay, decay_mask)
            if optimizer.weight_decay
            else optax.identity()
        )
        momentum = optimizer.momentum or None
        return optax.chain(decay, optax.sgd(learning_rate, momentum=momentum, nesterov=optimizer.nesterov))
    if optimizer.name == "adamw":
        return optax.adamw(
            learning_rate, b1=optimizer.b1, b2=optimizer.b2, weight_decay=optimizer.weight_decay, mask=decay_mask
        )
    raise UserError(f"config.optimizer.name is {optimizer.name!r}, but must be one of {OPTIMIZERS}.")


class RateFactor(NamedTuple):
    """The state of `with_rate_factor`: a float32 scalar, 1 at first."""

    value: jax.Array


def with_rate_factor(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` with its learning rate multiplied by a number in its state: one compiled step serves all rates.

    The updates of all our optimisers are proportional to a constant factor of the learning rate. `set_rate_factor` sets it.
    """

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda leaf: leaf * state.value.astype(leaf.dtype), updates), state

    factor = optax.GradientTransformation(lambda params: RateFactor(jnp.ones([], jnp.float32)), update)
    return optax.chain(optimizer, factor)


def set_rate_factor(opt_state: Any, factor: float) -> Any:
    """The state of an optimiser of `with_rate_factor` with another factor."""
    rest, old = opt_state
    return rest, RateFactor(jax.device_put(np.float32(factor), old.value.sharding))


def rate_factor(opt_state: Any) -> jax.Array | float:
    """The factor in the state of an optimiser; 1 where it has none."""
    has_one = isinstance(opt_state, tuple) and len(opt_state) > 0 and isinstance(opt_state[-1], RateFactor)
    return opt_state[-1].value if has_one else 1.0
