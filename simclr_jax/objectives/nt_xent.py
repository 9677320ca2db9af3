"""Contrastive objectives over the global batch (paper section 2.1, equation 1).

NT-Xent compares every view with all others, 4 B^2 similarities for B images. Here they are never held: `pairwise` brings
blocks of them about, over devices too, so memory grows with B times the width of an embedding. The plain form stands
beside it: on very many devices a ring has many short turns, and gathering the embeddings once is faster.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax.objectives.pairwise import all_pairs
from simclr_jax.objectives.pairwise import is_padded
from simclr_jax.objectives.pairwise import merge_sums
from simclr_jax.objectives.pairwise import scaled_sum

# Below this, exp(-2 * bound) is a normal float32 by a wide margin.
SAFE_BOUND = 30.0


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Rows of unit length; a zero row stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon))


def prepare(z: jax.Array, temperature: float, normalize: bool) -> jax.Array:
    """Checked, in float32 at least, and perhaps normalised."""
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"z must have the shape [pairs, 2, dim], two views per image, but has {z.shape}.")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, but is {temperature}.")
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return l2_normalize(z) if normalize else z


def exact_dot(a: jax.Array, b: jax.Array) -> jax.Array:
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
    z = prepare(z, temperature, normalize)
    pairs, _, dim = z.shape
    bound = 1.0 / temperature if normalize and temperature * SAFE_BOUND > 1.0 else None
    per_view = logsumexp_of_others(z.reshape(2 * pairs, dim), temperature, bound, mesh)
    return (jnp.sum(per_view) - 2 * jnp.sum(z[:, 0] * z[:, 1]) / temperature) / pairs


def nt_xent_dense(z: jax.Array, temperature: float, normalize: bool = True) -> jax.Array:
    """`nt_xent` the plain way, with all similarities at once: to read, and to measure against."""
    z = prepare(z, temperature, normalize)
    pairs, _, dim = z.shape
    rows = z.reshape(2 * pairs, dim)
    logits = jnp.where(jnp.eye(2 * pairs, dtype=bool), -jnp.inf, exact_dot(rows, rows.T) / temperature)
    return (jnp.sum(jax.nn.logsumexp(logits, axis=-1)) - 2 * jnp.sum(z[:, 0] * z[:, 1]) / temperature) / pairs


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
    padded = is_padded(num_rows, mesh.size if mesh else 1)
    lowest = bound if bound is not None else float(jnp.finfo(x.dtype).min)
    sums = functools.partial(scaled_sum, bound=bound)

    def meet(own, others, found, found_by_others):
        logits = exact_dot(own["x"], others["x"].T) / temperature
        if padded:
            logits = jnp.where(own["real"][:, None] & others["real"], logits, -jnp.inf)
        return merge_sums(found, sums(logits, 1)), merge_sums(found_by_others, sums(logits, 0))

    def meet_itself(own, found):
        logits = exact_dot(own["x"], own["x"].T) / temperature
        itself = jnp.eye(len(logits), dtype=bool)
        return merge_sums(found, sums(jnp.where(itself | ~own["real"], -jnp.inf, logits), 1))

    greatest, total = all_pairs(
        {"x": x, "real": jnp.ones(num_rows, bool)},
        (jnp.full(num_rows, lowest, x.dtype), jnp.zeros(num_rows, x.dtype)),
        meet=meet,
        meet_itself=meet_itself,
        merge=merge_sums,
        mesh=mesh,
    )
    return greatest + jnp.log(total), (x, greatest, total)


def _backward(temperature, bound, mesh, saved, cotangent):
    """d/dx_i is sum_k (c_i P_ik + c_k P_ki) x_k, over the temperature, with c the cotangent and
    P_ik = exp(logit_ik - m_i) / s_i."""
    x, greatest, total = saved
    rows = {"x": x, "greatest": greatest, "weight": cotangent / total}

    def both_ways(own, others):
        logits = exact_dot(own["x"], others["x"].T) / temperature
        if bound is not None:  # m is the same everywhere
            return jnp.exp(logits - bound) * (own["weight"][:, None] + others["weight"])
        there = jnp.exp(logits - own["greatest"][:, None]) * own["weight"][:, None]
        return there + jnp.exp(logits - others["greatest"]) * others["weight"]

    def meet(own, others, found, found_by_others):
        weights = both_ways(own, others)
        # Turned for good, not within the product: XLA's CPU code takes twice as long for a product with a turned factor.
        turned = lax.optimization_barrier(weights.T)
        return found + exact_dot(weights, others["x"]), found_by_others + exact_dot(turned, own["x"])

    def meet_itself(own, found):
        weights = both_ways(own, own)
        return found + exact_dot(jnp.where(jnp.eye(len(weights), dtype=bool), 0, weights), own["x"])

    gradient = all_pairs(rows, jnp.zeros_like(x), meet=meet, meet_itself=meet_itself, merge=jnp.add, mesh=mesh)
    return (gradient / temperature,)


logsumexp_of_others.defvjp(_forward, _backward)
