"""Embed a batch in parts: the contrastive loss of the whole batch with the activations of one part.

All images are embedded first, part by part, and their activations are dropped. The loss is differentiated with respect to
the embeddings of all images. Then each part is embedded again, and its share of that gradient is propagated back to the
parameters. The gradient is exact; BatchNorm uses the statistics of each part, and the running ones follow their mean.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Shaped

from simclr_jax.runtime import sharding

# (parameters, images) to (z, (h, BatchNorm statistics)).
Embed = Callable[[Any, Any], tuple[jax.Array, tuple[jax.Array, Any]]]


def vjp_of_embed(
    embed: Embed, params: Any, images: Any, parts: int, mesh: Mesh
) -> tuple[jax.Array, Callable[[jax.Array], tuple[Any]], tuple[jax.Array, Any]]:
    """`jax.vjp` of `embed` for the parameters, a part of the images at a time.

    Args:
      embed: the function to differentiate.
      params: its first argument.
      images: its second argument: a pytree of arrays with the batch as their first axis, split over the mesh.
      parts: how many. It divides the images on each device.
      mesh: over which the batch is split.

    Returns:
      z of all images; the function from the gradient with respect to z to that with respect to `params`, in a tuple of
      one; and (h of all images, the BatchNorm statistics).
    """
    if parts == 1:
        return jax.vjp(lambda params: embed(params, images), params, has_aux=True)
    pieces = jax.tree.map(lambda array: to_parts(array, parts, mesh), images)

    def embed_part(sums, piece):
        z, (h, batch_stats) = embed(params, piece)
        return jax.tree.map(jnp.add, sums, batch_stats), (z, h)

    shapes = jax.eval_shape(embed, params, jax.tree.map(lambda array: array[0], pieces))[1][1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, (z, h) = jax.lax.scan(embed_part, zeros, pieces)
    batch_stats = jax.tree.map(lambda leaf: leaf / parts, sums)

    def pull_back(z_gradient):
        def pull_part_back(grads, piece_and_gradient):
            piece, gradient = piece_and_gradient
            _, pull_back, _ = jax.vjp(lambda params: embed(params, piece), params, has_aux=True)
            return jax.tree.map(jnp.add, grads, *pull_back(gradient)), None

        both = pieces, to_parts(z_gradient, parts, mesh)
        return (jax.lax.scan(pull_part_back, jax.tree.map(jnp.zeros_like, params), both)[0],)

    return from_parts(z, mesh), pull_back, (from_parts(h, mesh), batch_stats)


def to_parts(array: Shaped[Array, "batch ..."], parts: int, mesh: Mesh) -> Shaped[Array, "parts part ..."]:
    """Splits the batch so that each part has an equal number of every device's rows, which stay on their device."""
    array = array.reshape(mesh.size, parts, -1, *array.shape[1:]).swapaxes(0, 1)
    array = array.reshape(parts, -1, *array.shape[3:])
    return jax.lax.with_sharding_constraint(array, sharding.parts_sharded(mesh))


def from_parts(array: Shaped[Array, "parts part ..."], mesh: Mesh) -> Shaped[Array, "batch ..."]:
    """The inverse of `to_parts`."""
    parts = len(array)
    array = array.reshape(parts, mesh.size, -1, *array.shape[2:]).swapaxes(0, 1)
    array = array.reshape(-1, *array.shape[3:])
    return jax.lax.with_sharding_constraint(array, sharding.batch_sharded(mesh))
