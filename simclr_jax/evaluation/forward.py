"""Run a network once over every example of a source."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.augment.image_files import Decoding
from simclr_jax.data import pipeline
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding
from simclr_jax.runtime.heartbeat import working


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a network for the readable examples of a source, in the order of the source."""

    values: np.ndarray  # float32 [n, ...]
    labels: np.ndarray  # int32 [n], or [n, classes] where an example may have several classes
    index: np.ndarray  # int64 [n]: the number of the example in the source
    unreadable: int  # how many examples could not be read


def batches_over(
    forward: Callable,
    params: Any,
    batch_stats: Any,
    source: Source,
    *,
    data: ConfigDict,
    batch_size: int,
    mesh: Mesh,
    bad_images: pipeline.BadImages,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Runs `forward` over a source, batch by batch. Each example is used exactly once, whatever the number of hosts.

    Args:
      forward: from `steps.make_forward`.
      params, batch_stats: its first two arguments.
      source: the examples.
      data: `config.data`, for the preprocessing.
      batch_size: global.
      mesh: over which batches are split.
      bad_images: counts the images that cannot be read.
      start_step: the first batch.

    Yields:
      Global batches: `output` float32 `[batch, ...]`, and `label`, `index`, `wanted` and `mask` as `pipeline.eval_batches`.
    """
    # Not more than there are images: the rest would be padding.
    batch_size = min(batch_size, sharding.rounded_up(source.num_examples, mesh))
    steps = -(-source.num_examples // batch_size)
    if start_step >= steps:
        return
    shard = pipeline.local_shard(mesh, batch_size, start_step, steps - start_step)
    batches = pipeline.eval_batches(
        source,
        size=data.image_size,
        crop=data.eval_crop,
        shard=shard,
        bad_images=bad_images,
        decoding=Decoding.of(data),
    )
    for batch in batches:
        yield jax.device_get(forward(params, batch_stats, sharding.to_global(batch, mesh)))


def run_over(
    forward: Callable,
    params: Any,
    batch_stats: Any,
    source: Source,
    *,
    data: ConfigDict,
    batch_size: int,
    mesh: Mesh,
    stop: Callable[[], bool],
) -> Outputs:
    """Runs `forward` over a source. Each example is used exactly once, whatever the number of hosts.

    Args:
      forward: from `steps.make_forward`.
      params, batch_stats: its first two arguments.
      source: the examples.
      data: `config.data`, for the preprocessing.
      batch_size: global.
      mesh: over which batches are split.
      stop: asked after every batch.

    Raises:
      Preempted: when `stop` says so.
      UserError: where no image can be read.
    """
    batches = batches_over(
        forward,
        params,
        batch_stats,
        source,
        data=data,
        batch_size=batch_size,
        mesh=mesh,
        bad_images=pipeline.BadImages(source, data.max_bad_fraction),
    )
    parts = []
    with working(f"running the network over {source.name}", source.num_examples, "images") as work:
        for results in batches:
            work.did(int(np.sum(results.pop("wanted") >= 0)))
            mask = results.pop("mask")
            parts.append({key: value[mask] for key, value in results.items()})
            if stop():
                raise Preempted("asked to stop during an evaluation; the same command runs it again.")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if not len(joined["index"]):
        raise UserError(f"none of the {source.num_examples} images of {source.name} can be read.")
    by_index = np.argsort(joined["index"])
    joined = {key: value[by_index] for key, value in joined.items()}
    return Outputs(joined["output"], joined["label"], joined["index"], source.num_examples - len(by_index))
