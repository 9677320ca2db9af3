"""Contrastive objectives over the global batch (paper section 2.1, equation 1).

NT-Xent compares every view with all others, 4 B^2 similarities for B images. Here they are never held: `pairwise` brings
blocks of them about, over devices too, so memory grows with B times the width of an embedding. The plain form stands
beside it: on very many devices a ring has many short turns, and gathering the embeddings once is faster.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax import pairwise

# Below this, exp(-2 * bound) is a normal float32 by a wide margin.
SAFE_BOUND = 30.0

# Where the plain form is faster by the TPU compiler's model (docs/performance.md), as long as its logits are small.
DENSE_ABOVE_DEVICES = 16
DENSE_LOGITS_BYTES = 2**29


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Rows of unit length; a zero row stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon))


def _prepare(z: jax.Array, temperature: float, normalize: bool) -> jax.Array:
    """Checked, in float32 at least, and perhaps normalised."""
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"z must have the shape [pairs, 2, dim], two views per image, but has {z.shape}.")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, but is {temperature}.")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return l2_normalize(z) if normalize else z


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # Full float32 on every backend: TPUs would multiply in bfloat16 by default, which a temperature of 0.1 amplifies.
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def nt_xent(z: jax.Array, temperature: float, normalize: bool = True, mesh: Mesh | None = None) -> jax.Array:
    """NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

    With s the similarity of two embeddings (cosine where `normalize`, otherwise their dot product), every view i has
    one positive j, the other view of its image, and 2 (pairs - 1) negatives, the views of all other images:

      l(i, j) = -log( exp(s_ij / temperature) / sum_{k != i} exp(s_ik / temperature) )

    Args:
      z: embeddings `[pairs, 2, dim]`, any float dtype; computed in float32 (float64 stays float64).
      temperature: tau, a positive number.
      normalize: l2-normalise the embeddings first.
      mesh: over all of whose devices `z` is split along its first axis; None: it is on one device.

    Returns:
      The scalar sum of l over both directions, averaged over pairs. This is twice the paper's L and exactly the
      reference implementation's loss, whose published learning rates go with this scale.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (256, 2, 128))
      >>> loss, gradient = jax.value_and_grad(nt_xent)(z, 0.5)
    """
    z = _prepare(z, temperature, normalize)
    pairs, _, dim = z.shape
    bound = 1.0 / temperature if normalize and temperature * SAFE_BOUND > 1.0 else None
    per_view = logsumexp_of_others(z.reshape(2 * pairs, dim), temperature, bound, mesh)
    return (jnp.sum(per_view) - 2 * jnp.sum(z[:, 0] * z[:, 1]) / temperature) / pairs


def nt_xent_dense(z: jax.Array, temperature: float, normalize: bool = True) -> jax.Array:
    """`nt_xent` the plain way, with all similarities at once: to read, and to measure against."""
    z = _prepare(z, temperature, normalize)
    pairs, _, dim = z.shape
    rows = z.reshape(2 * pairs, dim)
    logits = jnp.where(jnp.eye(2 * pairs, dtype=bool), -jnp.inf, _dot(rows, rows.T) / temperature)
    return (jnp.sum(jax.nn.logsumexp(logits, axis=-1)) - 2 * jnp.sum(z[:, 0] * z[:, 1]) / temperature) / pairs


def implementation(method: str, pairs: int, mesh: Mesh) -> tuple[Callable, Callable]:
    """The functions `(z, temperature, normalize)` for the loss and for the metrics of a global batch.

    Args:
      method: `config.loss.method`: "blocks" (`nt_xent`), "dense" (`nt_xent_dense`), or "auto", the faster one.
      pairs: images in the global batch.
      mesh: over all of whose devices the embeddings are split.
    """
    logits_bytes = 4 * (2 * pairs) ** 2 / mesh.size
    if method == "auto":
        method = "dense" if mesh.size > DENSE_ABOVE_DEVICES and logits_bytes < DENSE_LOGITS_BYTES else "blocks"
    if method == "dense":
        return nt_xent_dense, contrastive_metrics_dense
    return functools.partial(nt_xent, mesh=mesh), functools.partial(contrastive_metrics, mesh=mesh)


# --- The sum over all others, in blocks -----------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def logsumexp_of_others(x: jax.Array, temperature: float, bound: float | None, mesh: Mesh | None) -> jax.Array:
    """log sum_{k != i} exp(x_i . x_k / temperature) for every row i, and its gradient, in memory proportional to `x`.

    Args:
      x: `[n, dim]`, float32 or float64; split over all devices of `mesh` along its first axis.
      temperature: a positive number.
      bound: what no logit exceeds in size, where it is known and exp(-2 bound) far from underflow. One exponential a pair
        will do then, instead of two.
      mesh: see `nt_xent`.

    Returns:
      `[n]`, split as x is.
    """
    return _forward(x, temperature, bound, mesh)[0]


def _forward(x, temperature, bound, mesh):
    num_rows = x.shape[0]
    padded = pairwise.is_padded(num_rows, mesh.size if mesh else 1)
    lowest = bound if bound is not None else float(jnp.finfo(x.dtype).min)
    sums = functools.partial(_scaled_sum, bound=bound)

    def meet(own, others, found, found_by_others):
        logits = _dot(own["x"], others["x"].T) / temperature
        if padded:
            logits = jnp.where(own["real"][:, None] & others["real"], logits, -jnp.inf)
        return _merge(found, sums(logits, 1)), _merge(found_by_others, sums(logits, 0))

    def meet_itself(own, found):
        logits = _dot(own["x"], own["x"].T) / temperature
        itself = jnp.eye(len(logits), dtype=bool)
        return _merge(found, sums(jnp.where(itself | ~own["real"], -jnp.inf, logits), 1))

    greatest, total = pairwise.all_pairs(
        {"x": x, "real": jnp.ones(num_rows, bool)},
        (jnp.full(num_rows, lowest, x.dtype), jnp.zeros(num_rows, x.dtype)),
        meet=meet,
        meet_itself=meet_itself,
        merge=_merge,
        mesh=mesh,
    )
    return greatest + jnp.log(total), (x, greatest, total)


def _scaled_sum(logits: jax.Array, axis: int, bound: float | None) -> tuple[jax.Array, jax.Array]:
    """(m, s) with s exp(m) the sum of exp(logits) along an axis. m is the maximum, or `bound` where there is one."""
    if bound is not None:
        return jnp.full(logits.shape[1 - axis], bound, logits.dtype), jnp.sum(jnp.exp(logits - bound), axis)
    greatest = jnp.maximum(jnp.max(logits, axis), jnp.finfo(logits.dtype).min)  # finite, also of no logits at all
    return greatest, jnp.sum(jnp.exp(logits - jnp.expand_dims(greatest, axis)), axis)


def _merge(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    greatest = jnp.maximum(one[0], other[0])
    return greatest, one[1] * jnp.exp(one[0] - greatest) + other[1] * jnp.exp(other[0] - greatest)


def _backward(temperature, bound, mesh, saved, cotangent):
    """d/dx_i is sum_k (c_i P_ik + c_k P_ki) x_k, over the temperature, with c the cotangent and
    P_ik = exp(logit_ik - m_i) / s_i."""
    x, greatest, total = saved
    rows = {"x": x, "greatest": greatest, "weight": cotangent / total}

    def both_ways(own, others):
        logits = _dot(own["x"], others["x"].T) / temperature
        if bound is not None:  # m is the same everywhere
            return jnp.exp(logits - bound) * (own["weight"][:, None] + others["weight"])
        there = jnp.exp(logits - own["greatest"][:, None]) * own["weight"][:, None]
        return there + jnp.exp(logits - others["greatest"]) * others["weight"]

    def meet(own, others, found, found_by_others):
        weights = both_ways(own, others)
        # Turned for good, not within the product: XLA's CPU code takes twice as long for a product with a turned factor.
        turned = lax.optimization_barrier(weights.T)
        return found + _dot(weights, others["x"]), found_by_others + _dot(turned, own["x"])

    def meet_itself(own, found):
        weights = both_ways(own, own)
        return found + _dot(jnp.where(jnp.eye(len(weights), dtype=bool), 0, weights), own["x"])

    gradient = pairwise.all_pairs(rows, jnp.zeros_like(x), meet=meet, meet_itself=meet_itself, merge=jnp.add, mesh=mesh)
    return (gradient / temperature,)


logsumexp_of_others.defvjp(_forward, _backward)


# --- What is looked at besides the loss -----------------------------------------------------------------------------


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
    z = _prepare(lax.stop_gradient(z), temperature, normalize)
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
        logits = jnp.where(others["real"], _dot(own["z"][:, 0], others["z"][:, 1].T) / temperature, -jnp.inf)
        lower_index = others["number"] < own["number"][:, None]
        bar = jnp.where(lower_index, own["surely_less"][:, None], own["surely_more"][:, None])
        before = jnp.sum((logits >= bar) & (others["number"] != own["number"][:, None]), axis=1, dtype=jnp.int32)
        greatest, total = _scaled_sum(logits, 1, None)
        shares = jnp.exp(logits - greatest[:, None])
        weighted = jnp.sum(jnp.where(others["real"], shares * logits, 0), axis=1)
        return _merge_metrics(found, (greatest, total, weighted, before))

    greatest, total, weighted, before = pairwise.all_pairs(
        rows,
        nothing,
        meet=lambda own, others, found, theirs: (look(own, others, found), look(others, own, theirs)),
        meet_itself=lambda own, found: look(own, own, found),
        merge=_merge_metrics,
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
    z = _prepare(lax.stop_gradient(z), temperature, normalize)
    logits = _dot(z[:, 0], z[:, 1].T) / temperature  # [pairs, pairs]
    rank = target_rank(logits, jnp.arange(len(z)))
    log_p = jax.nn.log_softmax(logits)
    return {
        "contrastive_top1": jnp.mean(rank < 1),
        "contrastive_top5": jnp.mean(rank < 5),
        "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
    }


def _merge_metrics(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    greatest = jnp.maximum(one[0], other[0])
    here, there = jnp.exp(one[0] - greatest), jnp.exp(other[0] - greatest)
    return greatest, one[1] * here + other[1] * there, one[2] * here + other[2] * there, one[3] + other[3]


def target_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the right one: 0 where it is the argmax. `[n, classes]`, `[n]` to int32 `[n]`.

    A tie goes to the lower index, as in argmax, so that a collapsed model is not scored as perfect.
    """
    target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower_index = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = (logits > target) | ((logits == target) & lower_index)
    # A NaN compares false with everything; it must not look like a correct prediction.
    return jnp.where(jnp.isnan(target[:, 0]), logits.shape[-1], jnp.sum(before, axis=-1))
