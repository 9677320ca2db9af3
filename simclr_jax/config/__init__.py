"""Configs: every field with its default, checks, and saved configs.

The functions here return all fields of one kind of run. A file in `configs/` starts from one of them.
"""

from simclr_jax.config.fields import TRANSFORMS
from simclr_jax.config.fields import distill
from simclr_jax.config.fields import finetune
from simclr_jax.config.fields import knn
from simclr_jax.config.fields import linear_probe
from simclr_jax.config.fields import parse_arg
from simclr_jax.config.fields import pretrain
from simclr_jax.config.fields import transfer
from simclr_jax.config.fields import transform_probe

__all__ = [
    "TRANSFORMS",
    "distill",
    "finetune",
    "knn",
    "linear_probe",
    "parse_arg",
    "pretrain",
    "transfer",
    "transform_probe",
]
