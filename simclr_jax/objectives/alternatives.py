"""The losses that the paper compares NT-Xent with (section 5.2, table 2): NT-Logistic and the margin triplet loss.

As in NT-Xent, each view has one positive, and the views of all other images are its negatives. The paper does not say how
it combines the negatives of a view without mining. Here they are averaged, so that together they weigh as much as the
positive. Every loss is summed over both views and averaged over images, as NT-Xent is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from simclr_jax.objectives.nt_xent import exact_dot
from simclr_jax.objectives.nt_xent import prepare


def nt_logistic(
    z: Float[Array, "pairs 2 dim"], temperature: float, normalize: bool = True, semi_hard: bool = False
) -> Float[Array, ""]:
    """NT-Logistic: -log sigmoid(s+ / temperature) - log sigmoid(-s- / temperature).

    Args:
      z, temperature, normalize: as for `nt_xent`.
      semi_hard: for each view, use only the most similar of the negatives that are less similar than the positive, if
        there is one (Schroff et al. 2015, arXiv 1503.03832). No gradient flows through this choice.

    Returns:
      A scalar: the sum over both views, averaged over images.

    Raises:
      ValueError: as `nt_xent`.

    Example:
      Every similarity of identical embeddings is 1, so the loss is 2 (log(1 + exp(-2)) + log(1 + exp(2))):

      >>> round(float(nt_logistic(jnp.ones((8, 2, 4)), temperature=0.5)), 3)
      4.508
    """
    with jax.named_scope("nt_logistic"):
        z = prepare(z, temperature, normalize)
        positive, similarity, is_negative = _similarities(z)
        if semi_hard:
            hardest, exists = _hardest(similarity, is_negative & (similarity < positive[:, None]))
            negative_term = jnp.where(exists, jax.nn.softplus(hardest / temperature), 0)
        else:
            negative_term = _masked_mean(jax.nn.softplus(similarity / temperature), is_negative)
        return 2 * jnp.mean(jax.nn.softplus(-positive / temperature) + negative_term)


def margin_triplet(
    z: Float[Array, "pairs 2 dim"], margin: float, normalize: bool = True, semi_hard: bool = False
) -> Float[Array, ""]:
    """The margin triplet loss: max(s- - s+ + margin, 0).

    Args:
      z, normalize: as for `nt_xent`.
      margin: m, a positive number.
      semi_hard: for each view, use only the most similar of the negatives that are less similar than the positive, if
        it is within the margin (Schroff et al. 2015, arXiv 1503.03832). No gradient flows through this choice.

    Returns:
      A scalar: the sum over both views, averaged over images.

    Raises:
      ValueError: if z is not `[pairs, 2, dim]` or the margin is not positive.

    Example:
      Identical embeddings cost the margin in both directions:

      >>> round(float(margin_triplet(jnp.ones((8, 2, 4)), margin=0.4)), 3)
      0.8
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive, but is {margin}.")
    with jax.named_scope("margin_triplet"):
        positive, similarity, is_negative = _similarities(prepare(z, 1.0, normalize))
        violation = similarity - positive[:, None] + margin
        if semi_hard:
            hardest, exists = _hardest(violation, is_negative & (similarity < positive[:, None]))
            return 2 * jnp.mean(jnp.where(exists, jax.nn.relu(hardest), 0))
        return 2 * jnp.mean(_masked_mean(jax.nn.relu(violation), is_negative))


def _similarities(
    z: Float[Array, "pairs 2 dim"],
) -> tuple[Float[Array, " views"], Float[Array, "views views"], Bool[Array, "views views"]]:
    """The similarity of each view to its positive; the similarities of all views; which of these are to negatives."""
    rows = z.reshape(-1, z.shape[-1])
    image = jnp.arange(len(rows)) // 2
    positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2)
    return positive, exact_dot(rows, rows.T), image[:, None] != image


def _hardest(
    values: Float[Array, "views views"], allowed: Bool[Array, "views views"]
) -> tuple[Float[Array, " views"], Bool[Array, " views"]]:
    """The largest allowed value of each row, and whether any is allowed."""
    index = jnp.argmax(jnp.where(allowed, values, -jnp.inf), axis=1)
    return jnp.take_along_axis(values, index[:, None], axis=1)[:, 0], jnp.any(allowed, axis=1)


def _masked_mean(values: Float[Array, "views views"], mask: Bool[Array, "views views"]) -> Float[Array, " views"]:
    """The mean of each row where the mask is true; 0 for a row where it is true nowhere."""
    count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0), axis=1) / count
