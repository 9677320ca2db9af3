"""NT-Xent over the global batch (paper section 2.1, equation 1).

NT-Xent compares every view with all other views: 4 B^2 similarities for B images. `nt_xent` never holds them all.
`pairwise` computes them in blocks, also across devices, so memory grows with B times the width of an embedding.
`nt_xent_dense` computes them at once. On very many devices it is faster: a ring has many short rounds there, and
gathering the embeddings once costs less.

Both sum the exponentials of the negatives alone and add the positive last, as l = softplus(logsumexp of the negatives -
positive). With the positive in the sum, the loss of a pair that is close together would be a small difference of two
large numbers, and its gradient would contain P - 1 with P near 1. In float32 most of their digits would be lost.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
import numpy as np

from simclr_jax.objectives.pairwise import all_pairs
from simclr_jax.objectives.pairwise import is_padded
from simclr_jax.objectives.pairwise import merge_sums
from simclr_jax.objectives.pairwise import scaled_sum

# Up to this bound, exp(-2 * bound) is a normal float32 by a wide margin.
SAFE_BOUND = 30.0


def l2_normalize(x: Float[Array | np.ndarray, "*batch dim"], epsilon: float = 1e-12) -> Float[Array, "*batch dim"]:
    """Scale every row to unit length. A row of zeros stays zero, with a finite gradient.

    Example:
      >>> print(l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3))
      [[0.6 0.8]
       [0.  0. ]]
    """
    return jnp.multiply(x, lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon)))


def prepare(z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool) -> Float[Array, "pairs 2 dim"]:
    """Check the arguments of an objective; return z in float32 (float64 stays float64), normalised if asked for.

    Raises:
      ValueError: if z is not `[pairs, 2, dim]` or the temperature is not positive.
    """
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"z must have the shape [pairs, 2, dim], two views per image, but has {z.shape}.")
    if not temperature > 0:
        raise ValueError(f"the temperature must be positive, but is {temperature}.")
    z = z.astype(np.promote_types(z.dtype, np.float32))
    return l2_normalize(z) if normalize else z


def exact_dot(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """The matrix product in full float32 on every backend.

    By default a TPU multiplies in bfloat16, and a temperature of 0.1 amplifies the rounding.
    """
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def nt_xent(
    z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool = True, mesh: Mesh | None = None
) -> Float[Array, ""]:
    """NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

    Let s_ik be the similarity of the embeddings i and k: their cosine if `normalize`, otherwise their dot product. Every
    view i has one positive j, the other view of its image, and 2 (pairs - 1) negatives, the views of all other images:

      l(i, j) = -log( exp(s_ij / temperature) / sum_{k != i} exp(s_ik / temperature) )

    Args:
      z: embeddings, any float dtype; computed in float32 (float64 stays float64).
      temperature: tau, a positive number.
      normalize: l2-normalise the embeddings first.
      mesh: the mesh over all of whose devices `z` is split along its first axis, equally; None: `z` is on one device.

    Returns:
      The scalar sum of l over both directions, averaged over pairs. This is twice the paper's L and exactly the
      reference implementation's loss, whose published learning rates belong to this scale.

    Raises:
      ValueError: if z is not `[pairs, 2, dim]`, the temperature is not positive, or the devices cannot share the pairs equally.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (256, 2, 128))
      >>> loss, gradient = jax.value_and_grad(nt_xent)(z, 0.5)
      >>> gradient.shape
      (256, 2, 128)

      Identical embeddings are at chance level, 2 log(2 pairs - 1):

      >>> round(float(nt_xent(jnp.ones((8, 2, 4)), 0.5)), 3), round(float(2 * jnp.log(15)), 3)
      (5.416, 5.416)
    """
    with jax.named_scope("nt_xent"):
        z = prepare(z, temperature, normalize)
        pairs, _, dim = z.shape
        if mesh is not None and pairs % mesh.size:
            raise ValueError(f"{mesh.size} devices cannot share {pairs} pairs equally.")
        if pairs == 1:
            return 0 * jnp.sum(z)  # without negatives the loss is 0
        bound = 1.0 / temperature if normalize and temperature * SAFE_BOUND > 1.0 else None
        return _mean_loss(z, logsumexp_of_negatives(z.reshape(2 * pairs, dim), temperature, bound, mesh), temperature)


def nt_xent_dense(z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool = True) -> Float[Array, ""]:
    """`nt_xent` with all similarities at once: easy to read, and the reference in the tests."""
    with jax.named_scope("nt_xent_dense"):
        z = prepare(z, temperature, normalize)
        pairs, _, dim = z.shape
        if pairs == 1:
            return 0 * jnp.sum(z)  # without negatives the loss is 0
        rows = z.reshape(2 * pairs, dim)
        logits = jnp.where(_same_image(2 * pairs), -jnp.inf, exact_dot(rows, rows.T) / temperature)
        return _mean_loss(z, jax.nn.logsumexp(logits, axis=-1), temperature)


def _same_image(views: int) -> Bool[Array, "views views"]:
    """Which of the views are of one image: views 2 i and 2 i + 1."""
    image = jnp.arange(views) // 2
    return image[:, None] == image


def _mean_loss(
    z: Float[Array, "pairs 2 dim"], negatives: Float[Array, " views"], temperature: float
) -> Float[Array, ""]:
    """l summed over both views and averaged over pairs, from the logsumexp of the negatives of each view."""
    positive = jnp.sum(z[:, 0] * z[:, 1], axis=-1, keepdims=True) / temperature
    return jnp.sum(jax.nn.softplus(negatives.reshape(-1, 2) - positive)) / len(z)


# --- The negatives, in blocks -------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def logsumexp_of_negatives(
    x: Float[Array, "n dim"], temperature: float, bound: float | None, mesh: Mesh | None
) -> Float[Array, " n"]:
    """log sum_k exp(x_i . x_k / temperature) for every row i, and its gradient, in memory proportional to `x`.

    The sum is over the views k of all other images.

    Args:
      x: float32 or float64, two rows for each of at least two images; split over all devices of `mesh` along its first axis.
      temperature: a positive number.
      bound: an upper bound of the absolute value of every logit, if one is known and exp(-2 bound) is far from
        underflow. Each pair then needs one exponential instead of two.
      mesh: as for `nt_xent`.

    Returns:
      One number for each row, split as x is.
    """
    return _forward(x, temperature, bound, mesh)[0]


def _forward(x: Float[Array, "n dim"], temperature: float, bound: float | None, mesh: Mesh | None):
    num_rows = x.shape[0]
    padded = is_padded(num_rows, mesh)
    lowest = bound if bound is not None else float(jnp.finfo(x.dtype).min)
    sums = functools.partial(scaled_sum, bound=bound)

    def combine(a, b, acc_a, acc_b):
        logits = exact_dot(a["x"], b["x"].T) / temperature
        if padded:
            logits = jnp.where(a["real"][:, None] & b["real"], logits, -jnp.inf)
        return merge_sums(acc_a, sums(logits, 1)), merge_sums(acc_b, sums(logits, 0))

    def combine_self(a, acc):
        logits = exact_dot(a["x"], a["x"].T) / temperature
        return merge_sums(acc, sums(jnp.where(_same_image(len(logits)) | ~a["real"], -jnp.inf, logits), 1))

    running_max, sum_exp = all_pairs(
        {"x": x, "real": jnp.ones(num_rows, bool)},
        (jnp.full(num_rows, lowest, x.dtype), jnp.zeros(num_rows, x.dtype)),
        combine=combine,
        combine_self=combine_self,
        merge=merge_sums,
        mesh=mesh,
    )
    return running_max + jnp.log(sum_exp), (x, running_max, sum_exp)


def _backward(temperature: float, bound: float | None, mesh: Mesh | None, saved, cotangent: Float[Array, " n"]):
    """d/dx_i = sum_k (c_i P_ik + c_k P_ki) x_k / temperature, with c the cotangent and P_ik = exp(logit_ik - m_i) / s_i."""
    x, running_max, sum_exp = saved
    rows = {"x": x, "max": running_max, "weight": cotangent / sum_exp}

    def pair_weights(a, b):
        logits = exact_dot(a["x"], b["x"].T) / temperature
        if bound is not None:  # every m is the bound
            return jnp.exp(logits - bound) * (a["weight"][:, None] + b["weight"])
        a_to_b = jnp.exp(logits - a["max"][:, None]) * a["weight"][:, None]
        return a_to_b + jnp.exp(logits - b["max"]) * b["weight"]

    def combine(a, b, acc_a, acc_b):
        weights = pair_weights(a, b)
        # Materialise the transpose first: XLA's CPU code takes twice as long for a product with a transposed factor.
        transposed = lax.optimization_barrier(weights.T)
        return acc_a + exact_dot(weights, b["x"]), acc_b + exact_dot(transposed, a["x"])

    def combine_self(a, acc):
        weights = pair_weights(a, a)
        return acc + exact_dot(jnp.where(_same_image(len(weights)), 0, weights), a["x"])

    with jax.named_scope("nt_xent_gradient"):
        gradient = all_pairs(
            rows, jnp.zeros_like(x), combine=combine, combine_self=combine_self, merge=jnp.add, mesh=mesh
        )
        return (gradient / temperature,)


logsumexp_of_negatives.defvjp(_forward, _backward)
