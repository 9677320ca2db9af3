"""Contrastive accuracy and entropy: how well the first view of an image identifies its second view."""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.objectives.choose import in_blocks
from simclr_jax.objectives.nt_xent import exact_dot
from simclr_jax.objectives.nt_xent import prepare
from simclr_jax.objectives.pairwise import all_pairs
from simclr_jax.objectives.pairwise import merge_sums
from simclr_jax.objectives.pairwise import scaled_sum

# By name, each a scalar.
Metrics = dict[str, Float[Array, ""]]


def contrastive_metrics(
    z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool = True, mesh: Mesh | None = None
) -> Metrics:
    """How well each first view identifies its second view among all second views, as the reference measures it.

    Args:
      z, temperature, normalize, mesh: as for `nt_xent`.

    Returns:
      Float scalars: `contrastive_top1` and `contrastive_top5`, fractions in [0, 1], where a tie goes to the lower index;
      `contrastive_entropy`, the mean entropy in nats of the softmax over the second views.

    Raises:
      ValueError: as `nt_xent`.
    """
    with jax.named_scope("contrastive_metrics"):
        z = prepare(lax.stop_gradient(z), temperature, normalize)
        pairs = z.shape[0]
        target = jnp.sum(z[:, 0] * z[:, 1], axis=-1) / temperature
        # Equal embeddings have equal logits up to rounding, and rounding must not decide a rank.
        rounding = 8 * jnp.finfo(z.dtype).eps * jnp.sqrt(jnp.prod(jnp.sum(z * z, axis=-1), axis=-1)) / temperature
        rows = {
            "z": z,
            "target_lower": target - rounding,
            "target_upper": target + rounding,
            "index": jnp.arange(pairs),
            "real": jnp.ones(pairs, bool),
        }
        zeros = jnp.zeros(pairs, z.dtype)
        lowest = jnp.full(pairs, jnp.finfo(z.dtype).min, z.dtype)
        running_max, sum_exp, weighted_sum, rank = all_pairs(
            rows,
            (lowest, zeros, zeros, jnp.zeros(pairs, jnp.int32)),
            combine=lambda a, b, acc_a, acc_b: (
                _add_candidates(a, b, acc_a, temperature),
                _add_candidates(b, a, acc_b, temperature),
            ),
            combine_self=lambda a, acc: _add_candidates(a, a, acc, temperature),
            merge=_merge,
            mesh=mesh,
        )
        rank = jnp.where(jnp.isnan(target), pairs, rank)  # a NaN compares false with everything
        return {
            "contrastive_top1": jnp.mean(rank < 1),
            "contrastive_top5": jnp.mean(rank < 5),
            "contrastive_entropy": jnp.mean(running_max + jnp.log(sum_exp) - weighted_sum / sum_exp),
        }


def _add_candidates(queries, candidates, acc, temperature: float):
    """Add the second views of one block, the candidates, to the accumulator of the first views of another.

    The accumulator is (maximum m, sum of e = exp(logit - m), sum of e * logit, number of candidates ranked before the
    target), each `[queries]`.
    """
    logits = exact_dot(queries["z"][:, 0], candidates["z"][:, 1].T) / temperature
    logits = jnp.where(candidates["real"], logits, -jnp.inf)
    lower_index = candidates["index"] < queries["index"][:, None]
    threshold = jnp.where(lower_index, queries["target_lower"][:, None], queries["target_upper"][:, None])
    ranked_before = (logits >= threshold) & (candidates["index"] != queries["index"][:, None])
    rank = jnp.sum(ranked_before, axis=1, dtype=jnp.int32)
    maximum, sum_exp = scaled_sum(logits, 1, None)
    exps = jnp.exp(logits - maximum[:, None])
    weighted_sum = jnp.sum(jnp.where(candidates["real"], exps * logits, 0), axis=1)
    return _merge(acc, (maximum, sum_exp, weighted_sum, rank))


def _merge(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return *merge_sums(a[:3], b[:3]), a[3] + b[3]


def contrastive_metrics_dense(z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool = True) -> Metrics:
    """`contrastive_metrics` with all similarities at once."""
    with jax.named_scope("contrastive_metrics_dense"):
        z = prepare(lax.stop_gradient(z), temperature, normalize)
        logits = exact_dot(z[:, 0], z[:, 1].T) / temperature  # [pairs, pairs]
        rank = target_rank(logits, jnp.arange(len(z)))
        log_p = jax.nn.log_softmax(logits)
        return {
            "contrastive_top1": jnp.mean(rank < 1),
            "contrastive_top5": jnp.mean(rank < 5),
            "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
        }


def make_contrastive_metrics(
    loss: ConfigDict, pairs: int, mesh: Mesh
) -> Callable[[Float[Array, "pairs 2 dim"]], Metrics]:
    """The contrastive metrics of a config, whatever its objective; the arguments are those of `make_objective`."""
    if in_blocks(loss.method, pairs, mesh):
        return lambda z: contrastive_metrics(z, loss.temperature, loss.normalize, mesh)
    return lambda z: contrastive_metrics_dense(z, loss.temperature, loss.normalize)


def target_rank(
    logits: Float[Array | np.ndarray, "n classes"], labels: Int[Array | np.ndarray, " n"]
) -> Int[Array, " n"]:
    """How many classes rank before the right one: 0 where the right class is the argmax.

    A tie goes to the lower index, as in argmax, so that a collapsed model does not score as perfect.
    """
    labels = jnp.asarray(labels)
    target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower_index = jnp.arange(logits.shape[-1], dtype=labels.dtype) < labels[:, None]
    before = (logits > target) | ((logits == target) & lower_index)
    # A NaN compares false with everything, and must not look like a correct prediction.
    return jnp.where(jnp.isnan(target[:, 0]), logits.shape[-1], jnp.sum(before, axis=-1))
