"""Sources of images behind one interface: TFDS, a folder, prepared records, or the digits of scikit-learn."""

from simclr_jax.data.sources.base import CANDIDATES
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.data.sources.base import identity
from simclr_jax.data.sources.base import join
from simclr_jax.data.sources.classes import check_same_classes
from simclr_jax.data.sources.fingerprint import fingerprint
from simclr_jax.data.sources.open import check_outside
from simclr_jax.data.sources.open import open_source

__all__ = [
    "CANDIDATES",
    "RandomAccess",
    "Source",
    "check_outside",
    "check_same_classes",
    "fingerprint",
    "identity",
    "join",
    "open_source",
]
