"""What a step can say of its representations without labels: whether they spread, and how close the views of an image are.

The cheap relatives of what `simclr_jax.verdict` measures after training, on some images of the batch and in training mode.
"""

from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float

from simclr_jax.objectives.metrics import Metrics
from simclr_jax.objectives.nt_xent import exact_dot
from simclr_jax.objectives.nt_xent import l2_normalize
from simclr_jax.runtime import sharding

SAMPLE = 256  # images at most: enough for the numbers, and nothing beside the step
# Of `deviation_h`: below, all representations are practically the same.
COLLAPSED = 0.02


def representation_metrics(
    h: Float[Array, "pairs 2 features"], z: Float[Array, "pairs 2 dim"], mesh: Mesh | None = None
) -> Metrics:
    """Spread and closeness of the representations of at most `SAMPLE` images, evenly spaced in the batch.

    Args:
      h: the representations of both views of each image.
      z: their projections; h itself where there is no projection head.
      mesh: over which the batch is split; None for one device.

    Returns:
      Float32 scalars, without gradient:
      - `dimensions_h`: in how many dimensions h varies, the participation ratio (sum v)^2 / sum v^2 of the variances v of its
        principal directions. 1 if it varies along one line; 0 if it does not vary.
      - `deviation_h`: the standard deviation of a feature of the l2-normalised h, times sqrt(features), mean over the
        features: 1 where h fills the sphere, 0 where all are the same (Chen and He 2021, arXiv 2011.10566).
      - `alignment_z`: the mean squared distance of the two views of an image on the sphere; 2 for unrelated ones.
      - `uniformity_z`: the logarithm of the mean of exp(-2 d^2) over pairs of images: 0 where all are the same, about -4 on a
        full sphere (both Wang and Isola 2020, arXiv 2005.10242).
    """
    h, z = (_some(lax.stop_gradient(value), mesh).astype(jnp.float32) for value in (h, z))
    unit_h, unit_z = l2_normalize(h[:, 0]), l2_normalize(z)
    squared = 2 - 2 * exact_dot(unit_z[:, 0], unit_z[:, 0].T)
    count = len(squared)
    # Without the distance of each image to itself, which is 0.
    near = (jnp.sum(jnp.exp(-2 * jnp.maximum(squared, 0))) - count) / max(count * (count - 1), 1)
    return {
        "dimensions_h": _participation_ratio(h[:, 0]),
        "deviation_h": jnp.mean(jnp.std(unit_h, axis=0)) * jnp.sqrt(float(h.shape[-1])),
        "alignment_z": jnp.mean(jnp.sum((unit_z[:, 0] - unit_z[:, 1]) ** 2, axis=-1)),
        "uniformity_z": jnp.log(jnp.maximum(near, jnp.finfo(jnp.float32).tiny)),
    }


def _participation_ratio(features: Float[Array, "n d"]) -> Float[Array, ""]:
    """From the traces of the Gram matrix, so without its eigenvalues."""
    centred = features - jnp.mean(features, axis=0)
    gram = exact_dot(centred, centred.T)
    squares = jnp.sum(gram * gram)
    # Representations that do not differ leave only rounding.
    rounding = (jnp.finfo(jnp.float32).eps * jnp.sum(features * features)) ** 2
    return jnp.where(squares > rounding, jnp.trace(gram) ** 2 / jnp.maximum(squares, rounding), 0.0)


def _some(values: Float[Array, "pairs 2 d"], mesh: Mesh | None) -> Float[Array, "some 2 d"]:
    """Every k-th image, on all devices. Each device picks its own ones, so the whole batch is never gathered."""
    pairs = len(values)
    some = max(number for number in range(1, min(pairs, SAMPLE) + 1) if pairs % number == 0)
    chosen = values.reshape(some, pairs // some, *values.shape[1:])[:, 0]
    return chosen if mesh is None else lax.with_sharding_constraint(chosen, sharding.replicated(mesh))
