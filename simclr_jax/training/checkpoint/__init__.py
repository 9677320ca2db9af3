"""Checkpoints: a thin layer over Orbax.

A checkpoint is a folder `WORKDIR/checkpoints/STEP` with one item for each part: `encoder`, `head`, `classifier` (parameters
and BatchNorm statistics), `optimizer` and `config`, and `classes` where a classifier has class names. So an evaluation reads
only the encoder, and a checkpoint explains itself when it is moved. `checksums.json` has the checksums of all files. Orbax
writes into a temporary folder and renames it at the end: a folder with its final name is complete.
"""

from simclr_jax.training.checkpoint.integrity import set_aside_damaged
from simclr_jax.training.checkpoint.of_run import Checkpoints
from simclr_jax.training.checkpoint.of_run import write
from simclr_jax.training.checkpoint.places import FOLDER
from simclr_jax.training.checkpoint.places import begun
from simclr_jax.training.checkpoint.places import find
from simclr_jax.training.checkpoint.places import newest
from simclr_jax.training.checkpoint.places import only_draw
from simclr_jax.training.checkpoint.places import workdir_of
from simclr_jax.training.checkpoint.reading import class_names
from simclr_jax.training.checkpoint.reading import load_classifier
from simclr_jax.training.checkpoint.reading import load_config
from simclr_jax.training.checkpoint.reading import load_own_config
from simclr_jax.training.checkpoint.reading import load_parts
from simclr_jax.training.checkpoint.reading import shapes
from simclr_jax.training.checkpoint.reading import step_of
from simclr_jax.training.checkpoint.same_weights import changed
from simclr_jax.training.checkpoint.same_weights import digest
from simclr_jax.training.checkpoint.same_weights import identity

__all__ = [
    "FOLDER",
    "Checkpoints",
    "begun",
    "changed",
    "class_names",
    "digest",
    "find",
    "identity",
    "load_classifier",
    "load_config",
    "load_own_config",
    "load_parts",
    "newest",
    "only_draw",
    "set_aside_damaged",
    "shapes",
    "step_of",
    "workdir_of",
    "write",
]
