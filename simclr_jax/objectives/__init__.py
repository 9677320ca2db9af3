"""Contrastive objectives over the global batch.

>>> import jax
>>> from simclr_jax.objectives import nt_xent
>>> z = jax.random.normal(jax.random.key(0), (8, 2, 4))  # [pairs, 2, dim]
>>> loss = nt_xent(z, temperature=0.5)
"""

from simclr_jax.objectives.alternatives import margin_triplet
from simclr_jax.objectives.alternatives import nt_logistic
from simclr_jax.objectives.choose import make_objective
from simclr_jax.objectives.nt_xent import l2_normalize
from simclr_jax.objectives.nt_xent import nt_xent
from simclr_jax.objectives.nt_xent import nt_xent_dense

__all__ = ["l2_normalize", "make_objective", "margin_triplet", "nt_logistic", "nt_xent", "nt_xent_dense"]
