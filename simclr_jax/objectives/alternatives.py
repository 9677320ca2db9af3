"""The losses that the paper compares NT-Xent with (section 5.2, table 2): NT-Logistic and the margin triplet loss.

Each view has its positive and, as in NT-Xent, all views of all other images as negatives. The paper does not say how it
combines a view's negatives where none is mined. Here they are averaged, so that together they weigh as much as the
positive. Every loss is summed over both views and averaged over images, as NT-Xent is.
"""

import jax
import jax.numpy as jnp

from simclr_jax.objectives.nt_xent import exact_dot
from simclr_jax.objectives.nt_xent import prepare


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
