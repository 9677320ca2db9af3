"""Read several images in one call, for sources whose `fetch` is a call of Python: such a call takes as long as a few images."""

from __future__ import annotations

from collections.abc import Callable
import math

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.runtime.tensorflow import tf

# Images that one call reads. From a bucket they are requested at the same time.
IMAGES = 32

ReadMany = Callable[["tf.Tensor"], dict[str, "tf.Tensor"]]


def function_of(source: Source) -> ReadMany | None:
    """`read_many` of a source that has it."""
    return source.read_many if isinstance(source, RandomAccess) and source.fetch_many is not None else None


def groups(records: tf.data.Dataset, group_size: int, batch_size: int, read_many: ReadMany | None) -> tf.data.Dataset:
    """Records in groups of `group_size`, which divides `batch_size`.

    With `read_many`, records also have what it gives for their first candidates, as `first`.
    """
    if read_many is None:
        return records.batch(group_size, drop_remainder=True)
    number = math.gcd(batch_size // group_size, max(1, IMAGES // group_size))

    def read(records):
        records = records | {"first": read_many(records["candidates"][:, 0])}
        return tf.nest.map_structure(
            lambda values: tf.reshape(values, [number, group_size, *values.shape[1:]]), records
        )

    batches = records.batch(number * group_size, drop_remainder=True)
    return batches.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
