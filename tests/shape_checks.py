"""Checks of the types and shapes in signatures while the tests run."""

from beartype import BeartypeConf
from beartype import beartype
import jaxtyping

CHECKED = (
    "simclr_jax.augment",
    "simclr_jax.models",
    "simclr_jax.objectives",
    "simclr_jax.training.steps",
)
# An int is a float, as type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Call it before the first import of `CHECKED`. Arguments and results that do not fit then raise a `TypeCheckError`."""
    jaxtyping.install_import_hook(CHECKED, f"{__name__}.check")
