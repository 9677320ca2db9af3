"""Something computed for every pair of rows of an array, without ever holding a matrix of all pairs.

Rows are cut into blocks. Every block meets every other one exactly once, and what is symmetric in a pair is computed once
for both sides. Between devices blocks travel on a ring: each device keeps its own rows and sees the others pass by, so no
device holds more than two devices' rows and one block of pairs at a time.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
import numpy as np

# Rows in a block: its pairs (4 MiB in float32) stay in the cache of a CPU core, and are enough work for a TPU's matrix unit.
BLOCK = 1024

# Rows, or what was gathered about them: a pytree of arrays with the same first axis.
Rows = Any


def all_pairs(
    rows: Rows,
    nothing: Rows,
    *,
    meet: Callable[[Rows, Rows, Rows, Rows], tuple[Rows, Rows]],
    meet_itself: Callable[[Rows, Rows], Rows],
    merge: Callable[[Rows, Rows], Rows],
    mesh: Mesh | None,
) -> Rows:
    """What every row gathers from all rows, itself included.

    Args:
      rows: arrays `[n, ...]`, split over all devices of the mesh along their first axis.
      nothing: arrays `[n, ...]`, what a row has gathered that has met no other; `merge` with it changes nothing.
      meet: (rows of a block, rows of another, gathered of the one, of the other) to what both have gathered then. Blocks
        may be padded with rows of zeros at their end.
      meet_itself: (rows of a block, gathered) to what it has gathered then from its own rows.
      merge: joins what the same rows have gathered in two places.
      mesh: None for rows that are on one device.

    Returns:
      Arrays as in `nothing`, after all meetings, split as the rows are. Not to be differentiated: the gradient
      is another call.
    """
    run = functools.partial(_all_pairs_of_device, meet=meet, meet_itself=meet_itself, merge=merge)
    if mesh is None or mesh.size == 1:
        return run(rows, nothing, axes=(), devices=1)
    axes = tuple(mesh.axis_names)
    split = PartitionSpec(axes)
    run = functools.partial(run, axes=axes, devices=mesh.size)
    # The check would want every constant in the loops marked as differing between devices. It guards gradients through
    # shard_map, which are not taken here.
    return jax.shard_map(run, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)(rows, nothing)


def _all_pairs_of_device(rows, nothing, *, meet, meet_itself, merge, axes, devices):
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    own, nothing = _to_blocks(rows, num_rows), _to_blocks(nothing, num_rows)
    count = jax.tree.leaves(own)[0].shape[0]

    def itself(i, found):
        return _put(found, i, meet_itself(_get(own, i), _get(found, i)))

    found = lax.fori_loop(0, count, itself, nothing)

    first, second = np.triu_indices(count, 1)
    if len(first):
        first, second = jnp.asarray(first, jnp.int32), jnp.asarray(second, jnp.int32)

        def among_own(number, found):
            i, j = first[number], second[number]
            one, other = meet(_get(own, i), _get(own, j), _get(found, i), _get(found, j))
            return _put(_put(found, i, one), j, other)

        found = lax.fori_loop(0, len(first), among_own, found)

    def pass_by(others, found, found_by_others):
        def step(number, carry):
            found, found_by_others = carry
            i, j = number // count, number % count
            one, other = meet(_get(own, i), _get(others, j), _get(found, i), _get(found_by_others, j))
            return _put(found, i, one), _put(found_by_others, j, other)

        return lax.fori_loop(0, count * count, step, (found, found_by_others))

    def shift(tree, by=1):
        """To every device what the one `by` places further has."""
        return lax.ppermute(tree, axes, [((place + by) % devices, place) for place in range(devices)])

    # Two devices meet on the one that comes first within half a round; what was found there for the passing rows travels
    # on with them, and home at the end.
    meetings = (devices - 1) // 2
    if devices > 1:
        others = shift(own)
    if meetings:

        def visit(_, carry):
            others, found, found_by_others = carry
            next_ones = shift(others)  # on its way while these are being met
            found, found_by_others = pass_by(others, found, found_by_others)
            return next_ones, found, shift(found_by_others)

        others, found, found_by_others = lax.fori_loop(0, meetings, visit, (others, found, nothing))
        found = merge(found, shift(found_by_others, -(meetings + 1)))
    if devices % 2 == 0:  # the opposite device: both meet, and each keeps its own side
        found, _ = pass_by(others, found, nothing)
    return _from_blocks(found, num_rows)


def _to_blocks(tree: Rows, num_rows: int) -> Rows:
    """`[rows, ...]` to `[blocks, rows of a block, ...]`, padded with zeros at the end, as evenly as possible."""
    count = -(-num_rows // BLOCK)
    size = -(-num_rows // count)

    def cut(array):
        padding = [(0, count * size - num_rows)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])

    return jax.tree.map(cut, tree)


def _from_blocks(tree: Rows, num_rows: int) -> Rows:
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_rows], tree)


def _get(tree: Rows, index: jax.Array) -> Rows:
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), tree)


def _put(tree: Rows, index: jax.Array, value: Rows) -> Rows:
    return jax.tree.map(lambda array, part: lax.dynamic_update_index_in_dim(array, part, index, 0), tree, value)


def is_padded(num_rows: int, devices: int) -> bool:
    """Whether `all_pairs` has to pad blocks of `num_rows` rows on so many devices."""
    rows = num_rows // devices
    return bool(rows % -(-rows // BLOCK))


# --- Sums of exponentials, block by block ---------------------------------------------------------------------------


def scaled_sum(logits: jax.Array, axis: int, bound: float | None) -> tuple[jax.Array, jax.Array]:
    """(m, s) with s exp(m) the sum of exp(logits) along an axis. m is the maximum, or `bound` where there is one."""
    if bound is not None:
        return jnp.full(logits.shape[1 - axis], bound, logits.dtype), jnp.sum(jnp.exp(logits - bound), axis)
    greatest = jnp.maximum(jnp.max(logits, axis), jnp.finfo(logits.dtype).min)  # finite, also of no logits at all
    return greatest, jnp.sum(jnp.exp(logits - jnp.expand_dims(greatest, axis)), axis)


def merge_sums(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Adds up sums of two blocks: each (m, s, ...), standing for s exp(m), ... ."""
    greatest = jnp.maximum(one[0], other[0])
    here, there = jnp.exp(one[0] - greatest), jnp.exp(other[0] - greatest)
    return greatest, *(a * here + b * there for a, b in zip(one[1:], other[1:], strict=True))
