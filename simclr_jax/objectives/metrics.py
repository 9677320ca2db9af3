"""How well views find their partners: what is looked at besides the loss."""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax.objectives.choose import in_blocks
from simclr_jax.objectives.nt_xent import exact_dot
from simclr_jax.objectives.nt_xent import prepare
from simclr_jax.objectives.pairwise import all_pairs
from simclr_jax.objectives.pairwise import merge_sums
from simclr_jax.objectives.pairwise import scaled_sum


def contrastive_metrics(
    z: jax.Array, temperature: float, normalize: bool = True, mesh: Mesh | None = None
) -> dict[str, jax.Array]:
    """How well the first views find their second views, as the reference measures it: among all second views only.

    Args:
      z, temperature, normalize, mesh: as for `nt_xent`.

    Returns:
      Float32 scalars: `contrastive_top1` and `contrastive_top5`, shares in [0, 1], a tie counting for the lower index;
      `contrastive_entropy`, the mean entropy in nats of the softmax over the second views.
    """
    z = prepare(lax.stop_gradient(z), temperature, normalize)
    pairs = z.shape[0]
    positive = jnp.sum(z[:, 0] * z[:, 1], axis=-1) / temperature
    # Equal embeddings have equal logits but for rounding, which must not decide.
    rounding = 8 * jnp.finfo(z.dtype).eps * jnp.sqrt(jnp.prod(jnp.sum(z * z, axis=-1), axis=-1)) / temperature
    rows = {
        "z": z,
        "surely_less": positive - rounding,
        "surely_more": positive + rounding,
        "number": jnp.arange(pairs),
        "real": jnp.ones(pairs, bool),
    }
    zeros = jnp.zeros(pairs, z.dtype)
    nothing = (jnp.full(pairs, jnp.finfo(z.dtype).min, z.dtype), zeros, zeros, jnp.zeros(pairs, jnp.int32))

    def look(own, others, found):
        """From the own first views at others' second views."""
        logits = jnp.where(others["real"], exact_dot(own["z"][:, 0], others["z"][:, 1].T) / temperature, -jnp.inf)
        lower_index = others["number"] < own["number"][:, None]
        bar = jnp.where(lower_index, own["surely_less"][:, None], own["surely_more"][:, None])
        before = jnp.sum((logits >= bar) & (others["number"] != own["number"][:, None]), axis=1, dtype=jnp.int32)
        greatest, total = scaled_sum(logits, 1, None)
        shares = jnp.exp(logits - greatest[:, None])
        weighted = jnp.sum(jnp.where(others["real"], shares * logits, 0), axis=1)
        return _merge(found, (greatest, total, weighted, before))

    greatest, total, weighted, before = all_pairs(
        rows,
        nothing,
        meet=lambda own, others, found, theirs: (look(own, others, found), look(others, own, theirs)),
        meet_itself=lambda own, found: look(own, own, found),
        merge=_merge,
        mesh=mesh,
    )
    before = jnp.where(jnp.isnan(positive), pairs, before)  # a NaN compares false with everything
    return {
        "contrastive_top1": jnp.mean(before < 1),
        "contrastive_top5": jnp.mean(before < 5),
        "contrastive_entropy": jnp.mean(greatest + jnp.log(total) - weighted / total),
    }


def contrastive_metrics_dense(z: jax.Array, temperature: float, normalize: bool = True) -> dict[str, jax.Array]:
    """`contrastive_metrics` the plain way."""
    z = prepare(lax.stop_gradient(z), temperature, normalize)
    logits = exact_dot(z[:, 0], z[:, 1].T) / temperature  # [pairs, pairs]
    rank = target_rank(logits, jnp.arange(len(z)))
    log_p = jax.nn.log_softmax(logits)
    return {
        "contrastive_top1": jnp.mean(rank < 1),
        "contrastive_top5": jnp.mean(rank < 5),
        "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
    }


def _merge(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return *merge_sums(one[:3], other[:3]), one[3] + other[3]


def make_contrastive_metrics(loss: ConfigDict, pairs: int, mesh: Mesh) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The metrics of a config, whatever its objective, as `objectives.make_objective`."""
    if in_blocks(loss.method, pairs, mesh):
        return lambda z: contrastive_metrics(z, loss.temperature, loss.normalize, mesh)
    return lambda z: contrastive_metrics_dense(z, loss.temperature, loss.normalize)


def target_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the right one: 0 where it is the argmax. `[n, classes]`, `[n]` to int32 `[n]`.

    A tie goes to the lower index, as in argmax, so that a collapsed model is not scored as perfect.
    """
    target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower_index = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = (logits > target) | ((logits == target) & lower_index)
    # A NaN compares false with everything; it must not look like a correct prediction.
    return jnp.where(jnp.isnan(target[:, 0]), logits.shape[-1], jnp.sum(before, axis=-1))
