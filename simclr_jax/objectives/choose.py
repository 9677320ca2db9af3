"""Build the objective that a config asks for, in the form that is faster on its mesh."""

from collections.abc import Callable

from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from simclr_jax.objectives.alternatives import margin_triplet
from simclr_jax.objectives.alternatives import nt_logistic
from simclr_jax.objectives.nt_xent import nt_xent
from simclr_jax.objectives.nt_xent import nt_xent_dense

# On more devices the dense form is faster by the TPU compiler's model (docs/performance.md), while its logits are small.
DENSE_ABOVE_DEVICES = 16
DENSE_LOGITS_BYTES = 2**29

# Embeddings to a scalar.
Objective = Callable[[Float[Array, "pairs 2 dim"]], Float[Array, ""]]


def make_objective(loss: ConfigDict, pairs: int, mesh: Mesh) -> Objective:
    """The objective of a config, as a function of embeddings `[pairs, 2, dim]` that are split over the mesh.

    Args:
      loss: `config.loss`.
      pairs: images in the global batch.
      mesh: over all of whose devices the embeddings are split.
    """
    return OBJECTIVES[loss.name](loss, pairs, mesh)


def in_blocks(method: str, pairs: int, mesh: Mesh) -> bool:
    """Whether to compute similarities block by block: as `config.loss.method` says, or for "auto" if that is faster."""
    if method == "auto":
        logits_bytes = 4 * (2 * pairs) ** 2 / mesh.size
        return mesh.size <= DENSE_ABOVE_DEVICES or logits_bytes >= DENSE_LOGITS_BYTES
    return method == "blocks"


def _nt_xent(loss: ConfigDict, pairs: int, mesh: Mesh) -> Objective:
    if in_blocks(loss.method, pairs, mesh):
        return lambda z: nt_xent(z, loss.temperature, loss.normalize, mesh)
    return lambda z: nt_xent_dense(z, loss.temperature, loss.normalize)


def _nt_logistic(loss: ConfigDict, pairs: int, mesh: Mesh) -> Objective:
    return lambda z: nt_logistic(z, loss.temperature, loss.normalize, loss.semi_hard)


def _margin_triplet(loss: ConfigDict, pairs: int, mesh: Mesh) -> Objective:
    return lambda z: margin_triplet(z, loss.margin, loss.normalize, loss.semi_hard)


# The names are `simclr_jax.config.choices.LOSSES`.
OBJECTIVES: dict[str, Callable[[ConfigDict, int, Mesh], Objective]] = {
    "nt_xent": _nt_xent,
    "nt_logistic": _nt_logistic,
    "margin_triplet": _margin_triplet,
}
