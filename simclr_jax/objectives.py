"""Contrastive objectives over the global batch (paper section 2.1, equation 1).

The functions see the global batch. Under `jax.jit` with `z` sharded along its first axis, the compiler gathers the
embeddings once (the paper's cross-replica gather) and every device computes its own rows of the similarity matrix.
"""

import jax
import jax.numpy as jnp


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Rows of unit length; a zero row stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), epsilon))


def _check(z: jax.Array, temperature: float) -> jax.Array:
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"z must have the shape [pairs, 2, dim], two views per image, but has {z.shape}.")
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"the temperature must be positive, but is {temperature}.")
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _similarities(a: jax.Array, b: jax.Array, temperature: float) -> jax.Array:
    # Full float32 on every backend: TPUs would multiply in bfloat16 by default, which a temperature of 0.1 amplifies.
    return jnp.einsum("...d,kd->...k", a, b, precision=jax.lax.Precision.HIGHEST) / temperature


def nt_xent(z: jax.Array, temperature: float, normalize: bool = True) -> jax.Array:
    """NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

    With s the similarity of two embeddings (cosine where `normalize`, otherwise their dot product), every view i has
    one positive j, the other view of its image, and 2 (pairs - 1) negatives, the views of all other images:

      l(i, j) = -log( exp(s_ij / temperature) / sum_{k != i} exp(s_ik / temperature) )

    Args:
      z: embeddings `[pairs, 2, dim]`, any float dtype; computed in float32 (float64 stays float64).
      temperature: tau, positive.
      normalize: l2-normalise the embeddings first.

    Returns:
      The scalar sum of l over both directions, averaged over pairs. This is twice the paper's L and exactly the
      reference implementation's loss, whose published learning rates go with this scale.

    Example:
      >>> z = jax.random.normal(jax.random.key(0), (256, 2, 128))
      >>> loss, gradient = jax.value_and_grad(nt_xent)(z, 0.5)
    """
    z = _check(z, temperature)
    if normalize:
        z = l2_normalize(z)
    pairs, _, dim = z.shape
    logits = _similarities(
        z, z.reshape(2 * pairs, dim), temperature
    )  # [pairs, 2, 2 * pairs]; column 2 i + v is z[i, v]
    columns = jnp.arange(2 * pairs)
    own = jnp.arange(pairs)[:, None] * 2 + jnp.arange(2)  # [pairs, 2]: the column of each row's own view
    logits = jnp.where(columns == own[..., None], -jnp.inf, logits)
    positives = _positives(z, temperature)
    per_view = jax.nn.logsumexp(logits, axis=-1) - positives[:, None]
    return jnp.sum(per_view) / pairs


def _positives(z: jax.Array, temperature: float) -> jax.Array:
    return jnp.sum(z[:, 0] * z[:, 1], axis=-1) / temperature


def contrastive_metrics(z: jax.Array, temperature: float, normalize: bool = True) -> dict[str, jax.Array]:
    """How well the first views find their second views, as the reference measures it: among all second views only.

    Args:
      z, temperature, normalize: as for `nt_xent`.

    Returns:
      Float32 scalars: `contrastive_top1` and `contrastive_top5`, shares in [0, 1], a tie counting for the lower index;
      `contrastive_entropy`, the mean entropy in nats of the softmax over the second views.
    """
    z = jax.lax.stop_gradient(_check(z, temperature))
    if normalize:
        z = l2_normalize(z)
    logits = _similarities(z[:, 0], z[:, 1], temperature)  # [pairs, pairs]
    labels = jnp.arange(z.shape[0])
    rank = target_rank(logits, labels)
    log_p = jax.nn.log_softmax(logits)
    return {
        "contrastive_top1": jnp.mean(rank < 1),
        "contrastive_top5": jnp.mean(rank < 5),
        "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
    }


def target_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the right one: 0 where it is the argmax. `[n, classes]`, `[n]` to int32 `[n]`.

    A tie goes to the lower index, as in argmax, so that a collapsed model is not scored as perfect.
    """
    target = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower_index = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = (logits > target) | ((logits == target) & lower_index)
    # A NaN compares false with everything; it must not look like a correct prediction.
    return jnp.where(jnp.isnan(target[:, 0]), logits.shape[-1], jnp.sum(before, axis=-1))
