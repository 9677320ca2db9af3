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
from ml_collections import ConfigDict

from simclr_jax import pairwise

# Below this, exp(-2 * bound) is a normal float32 by a wide margin.
SAFE_BOUND = 30.0

# Where the plain form is faster by the TPU compiler's model (docs/performance.md), as long as its logits are small.
DENSE_ABOVE_DEVICES = 16
DENSE_LOGITS_BYTES = 2**29


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


# --- The objectives that the paper compares with (section 5.2, table 2) ---------------------------------------------
#
# Each view has its positive and, as in NT-Xent, all views of all other images as negatives. The paper does not say how
# a view's negatives are put together where none is mined: here they are averaged, so that they weigh as much as the
# positive. Everything is summed over both views and averaged over images, as NT-Xent is.


def nt_logistic(z: jax.Array, temperature: float, normalize: bool = True, semi_hard: bool = False) -> jax.Array:
    """NT-Logistic: -log sigmoid(s+ / temperature) - log sigmoid(-s- / temperature).

    Args:
      z, temperature, normalize: as for `nt_xent`.
      semi_hard: of a view's negatives only the most similar one that is less similar than the positive counts, if
        there is one (Schroff et al. 2015, arXiv 1503.03832). No gradient goes through the choice.

    Returns:
      A scalar, the mean over images of the sum over both views.
    """
    z = prepare(z, temperature, normalize)
    positive, similarity, negative = _similarities(z)
    if semi_hard:
        hardest, found = _hardest(similarity, negative & (similarity < positive[:, None]))
        apart = jnp.where(found, jax.nn.softplus(hardest / temperature), 0)
    else:
        apart = _mean(jax.nn.softplus(similarity / temperature), negative)
    return 2 * jnp.mean(jax.nn.softplus(-positive / temperature) + apart)


def margin_triplet(z: jax.Array, margin: float, normalize: bool = True, semi_hard: bool = False) -> jax.Array:
    """The margin triplet loss: max(s- - s+ + margin, 0).

    Args:
      z, normalize: as for `nt_xent`.
      margin: m, a positive number.
      semi_hard: of a view's negatives only the most similar one that is less similar than the positive counts, if it is
        within the margin (Schroff et al. 2015, arXiv 1503.03832). No gradient goes through the choice.

    Returns:
      A scalar, the mean over images of the sum over both views.
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive, but is {margin}.")
    positive, similarity, negative = _similarities(prepare(z, 1.0, normalize))
    excess = similarity - positive[:, None] + margin
    if semi_hard:
        hardest, found = _hardest(excess, negative & (similarity < positive[:, None]))
        return 2 * jnp.mean(jnp.where(found, jax.nn.relu(hardest), 0))
    return 2 * jnp.mean(_mean(jax.nn.relu(excess), negative))


def _similarities(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of `[pairs, 2, dim]`: of each view the positive's, `[views]`; of all views, and which are negatives, `[views, views]`."""
    rows = z.reshape(-1, z.shape[-1])
    image = jnp.arange(len(rows)) // 2
    positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2)
    return positive, exact_dot(rows, rows.T), image[:, None] != image


def _hardest(values: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """In each row the greatest value that is allowed, and whether there is one."""
    index = jnp.argmax(jnp.where(allowed, values, -jnp.inf), axis=1)
    return jnp.take_along_axis(values, index[:, None], axis=1)[:, 0], jnp.any(allowed, axis=1)


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Of each row, over what is counted; 0 where nothing is."""
    return jnp.sum(jnp.where(counted, values, 0), axis=1) / jnp.maximum(jnp.sum(counted, axis=1), 1)


def make_objective(loss: ConfigDict, pairs: int, mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """The objective of a config, as a function of the embeddings `[pairs, 2, dim]`, which are split over the mesh.

    Args:
      loss: `config.loss`.
      pairs: images in the global batch.
      mesh: over all of whose devices the embeddings are split.
    """
    if loss.name == "nt_logistic":
        return lambda z: nt_logistic(z, loss.temperature, loss.normalize, loss.semi_hard)
    if loss.name == "margin_triplet":
        return lambda z: margin_triplet(z, loss.margin, loss.normalize, loss.semi_hard)
    if in_blocks(loss.method, pairs, mesh):
        return lambda z: nt_xent(z, loss.temperature, loss.normalize, mesh)
    return lambda z: nt_xent_dense(z, loss.temperature, loss.normalize)


def in_blocks(method: str, pairs: int, mesh: Mesh) -> bool:
    """Whether similarities are computed block by block: `config.loss.method`, or with "auto" what is faster."""
    if method == "auto":
        logits_bytes = 4 * (2 * pairs) ** 2 / mesh.size
        return mesh.size <= DENSE_ABOVE_DEVICES or logits_bytes >= DENSE_LOGITS_BYTES
    return method == "blocks"


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
    sums = functools.partial(pairwise.scaled_sum, bound=bound)

    def meet(own, others, found, found_by_others):
        logits = exact_dot(own["x"], others["x"].T) / temperature
        if padded:
            logits = jnp.where(own["real"][:, None] & others["real"], logits, -jnp.inf)
        return pairwise.merge_sums(found, sums(logits, 1)), pairwise.merge_sums(found_by_others, sums(logits, 0))

    def meet_itself(own, found):
        logits = exact_dot(own["x"], own["x"].T) / temperature
        itself = jnp.eye(len(logits), dtype=bool)
        return pairwise.merge_sums(found, sums(jnp.where(itself | ~own["real"], -jnp.inf, logits), 1))

    greatest, total = pairwise.all_pairs(
        {"x": x, "real": jnp.ones(num_rows, bool)},
        (jnp.full(num_rows, lowest, x.dtype), jnp.zeros(num_rows, x.dtype)),
        meet=meet,
        meet_itself=meet_itself,
        merge=pairwise.merge_sums,
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

    gradient = pairwise.all_pairs(rows, jnp.zeros_like(x), meet=meet, meet_itself=meet_itself, merge=jnp.add, mesh=mesh)
    return (gradient / temperature,)


logsumexp_of_others.defvjp(_forward, _backward)
