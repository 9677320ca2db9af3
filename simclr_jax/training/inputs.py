"""From a batch, in host memory or in device memory, to the views that the network sees.

A batch is either `{"views", "label"}`, made by the host (`data.pipeline`), or `Resident` (`data.resident`): the whole data
set in device memory, from which a step picks its images. The two differ only in where each augmentation runs.
"""

from collections.abc import Callable
from collections.abc import Iterator
import itertools
from typing import TYPE_CHECKING
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import UInt8
from jaxtyping import UInt32
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment import jax_ops
from simclr_jax.data.resident import Resident
from simclr_jax.runtime import sharding
from simclr_jax.runtime.heartbeat import working

if TYPE_CHECKING:
    from simclr_jax.data.pipeline import BadImages
    from simclr_jax.data.sources import Source

Batch = dict[str, jax.Array] | Resident


def open_batches(
    config: ConfigDict, source: "Source", mesh: Mesh, start_step: int, bad_images: "BadImages"
) -> Iterator[Batch]:
    """The endless global batches of a pretraining run, from `start_step` on."""
    # TensorFlow is imported only where there are files.
    from simclr_jax.augment.image_files import Decoding
    from simclr_jax.data import pipeline

    decoding = Decoding.of(config.data)
    if config.data.resident:
        with working(f"decoding {source.name} into device memory"):
            return itertools.repeat(Resident.load(source, mesh, decoding))  # type: ignore[arg-type]

    host_batches = pipeline.train_batches(
        source,
        config.augment,
        num_views=2,
        size=config.data.image_size,
        shard=pipeline.local_shard(mesh, config.batch_size, start_step),
        seed=config.seed,
        bad_images=bad_images,
        decoding=decoding,
    )
    return global_batches(host_batches, mesh)


def global_batches(batches: Iterator[dict[str, np.ndarray]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Makes global batches of the batches that `data.pipeline.train_batches` yields on each process."""
    for batch in batches:
        yield sharding.to_global({key: batch[key] for key in ("views", "label")}, mesh)


def to_float(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """uint8 to floats in [0, 1], without normalisation by mean and deviation (reference tf2/data_util.py)."""
    return images.astype(jnp.float32) / 255.0


def positions(step: Int[Array, ""], batch_size: int) -> UInt32[Array, " batch"]:
    """The global positions of a step's images; see `data.order`."""
    return step.astype(jnp.uint32) * np.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)


def read(batch: Batch, where: jax.Array, seed: int) -> tuple[jax.Array, jax.Array]:
    """The images, uint8 `[batch, ...]` as `make_views` takes them, and the labels at global positions."""
    if isinstance(batch, Resident):
        return batch.batch(where, seed)
    return batch["views"], batch["label"]


def make_views(config: ConfigDict) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A function (images of `read`, their positions) to float views `[batch, 2, size, size, 3]` in [0, 1]."""
    seed, augment, size = config.seed, config.augment, config.data.image_size
    if config.data.resident:
        return lambda images, where: jax_ops.views_from_images(images, where, seed, augment, size, 2)
    if augment.where == "device":
        return lambda crops, where: jax_ops.random_views(crops, where, seed, augment)
    return lambda views, where: to_float(views)


def look(config: ConfigDict, mesh: Mesh, batch: Batch, step: int, number: int = 32) -> np.ndarray:
    """The first views that a step will see, uint8 `[number, 2, size, size, 3]`. Every process has to call it."""

    def views(batch: Batch) -> jax.Array:
        where = positions(jnp.asarray(step), config.batch_size)
        images = read(batch, where, config.seed)[0][:number]
        where = where[:number]
        return jnp.round(make_views(config)(images, where) * 255.0).astype(jnp.uint8)

    return jax.device_get(jax.jit(views, out_shardings=sharding.replicated(mesh))(batch))


def abstract_batch(config: ConfigDict, mesh: Mesh, num_examples: int) -> Any:
    """Shapes, dtypes and shardings of a batch, for planning; resident images are assumed to have the side `data.image_size`."""
    size, split = config.data.image_size, sharding.batch_sharded(mesh)

    def array(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    if config.data.resident:
        padded = sharding.rounded_up(num_examples, mesh)
        images, labels = array((padded, size, size, 3), jnp.uint8), array((padded,), jnp.int32)
        return Resident(images, labels, num_examples, mesh)
    shape = (config.batch_size, 2, size, size, 3)
    return {"views": array(shape, jnp.uint8), "label": array(shape[:1], jnp.int32)}
