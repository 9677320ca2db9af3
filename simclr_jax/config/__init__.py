"""Configs: every field with its default, checks, saved configs, and the files in `configs/`.

The functions here return all fields of one kind of run. A file in `configs/` starts from one of them. Nothing in this
package imports JAX or TensorFlow.
"""

from simclr_jax.config.arguments import parse_arg
from simclr_jax.config.fields import TRANSFORMS
from simclr_jax.config.fields import defaults
from simclr_jax.config.fields import distill
from simclr_jax.config.fields import fields_of
from simclr_jax.config.fields import finetune
from simclr_jax.config.fields import knn
from simclr_jax.config.fields import linear_probe
from simclr_jax.config.fields import pretrain
from simclr_jax.config.fields import transfer
from simclr_jax.config.fields import transform_probe
from simclr_jax.config.kinds import KINDS
from simclr_jax.config.kinds import Kind
from simclr_jax.config.locate import CONFIGS
from simclr_jax.config.locate import load

__all__ = [
    "CONFIGS",
    "KINDS",
    "TRANSFORMS",
    "Kind",
    "defaults",
    "distill",
    "fields_of",
    "finetune",
    "knn",
    "linear_probe",
    "load",
    "parse_arg",
    "pretrain",
    "transfer",
    "transform_probe",
]
