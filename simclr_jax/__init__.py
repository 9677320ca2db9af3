"""SimCLR in JAX and Flax: contrastive pretraining, linear probes and fine-tuning, from a laptop to a TPU pod.

    from simclr_jax import nt_xent

    encoder = simclr_jax.load("runs/digits")

The names below are imported when they are first used, so that `import simclr_jax` takes no time.
"""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

_LAZY = {
    "ResNet": "simclr_jax.models.resnet",
    "SimCLR": "simclr_jax.models.networks",
    "load": "simclr_jax.inference.encoder",
    "margin_triplet": "simclr_jax.objectives",
    "nt_logistic": "simclr_jax.objectives",
    "nt_xent": "simclr_jax.objectives",
}

__all__ = ["ResNet", "SimCLR", "load", "margin_triplet", "nt_logistic", "nt_xent"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
