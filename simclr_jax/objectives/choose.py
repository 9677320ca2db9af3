"""Which objective a config asks for, and how it is computed."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax.objectives.alternatives import margin_triplet
from simclr_jax.objectives.alternatives import nt_logistic
from simclr_jax.objectives.nt_xent import nt_xent
from simclr_jax.objectives.nt_xent import nt_xent_dense

# Where the plain form is faster by the TPU compiler's model (docs/performance.md), as long as its logits are small.
DENSE_ABOVE_DEVICES = 16
DENSE_LOGITS_BYTES = 2**29


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
