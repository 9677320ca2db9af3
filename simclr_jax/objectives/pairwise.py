"""Reduce over all pairs of rows of an array, without ever holding the matrix of all pairs.

The rows are cut into blocks, and every pair of blocks is visited exactly once: a term that is symmetric in its two rows
is computed once for both. Rows 2 i and 2 i + 1, the two views of an image, are always in the same block. Between devices
the blocks travel on a ring. Each device keeps its own rows while the rows of the other devices pass by, so it holds the rows
of two devices and one block of pairs at a time.
"""

from collections.abc import Callable
import functools
import math
from typing import Any
from typing import TypeAlias

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import PyTree
from jaxtyping import Shaped
import numpy as np

# Rows in a block. On a CPU its pairs (4 MiB in float32) fit the cache of a core. On a TPU, by the compiler's estimates for a
# million images on eight chips, blocks of 4096 rows take a third of the time of blocks of 1024, because every block reads and
# writes the accumulators of its rows; blocks of 8192 take longer again.
BLOCK = 4096
BLOCK_ON_CPU = 1024

# One entry for each row: a pytree of arrays with the same first axis.
Rows: TypeAlias = PyTree[Shaped[Array, "rows ..."]]
# The same, cut into blocks.
Blocks: TypeAlias = PyTree[Shaped[Array, "blocks block_rows ..."]]
# (running maximum m, sum of exponentials s, ...): s and all that follow are to be multiplied by exp(m). For the rows of one
# block, or for all blocks at once.
ScaledSums = tuple[Float[Array, "*rows"], ...]


def all_pairs(
    rows: Rows,
    init: Rows,
    *,
    combine: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
    combine_self: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    mesh: Mesh | None,
) -> Any:
    """For every row, a reduction over all rows, itself included.

    Args:
      rows: arrays `[n, ...]`, split over all devices of the mesh along their first axis, an even number to each.
      init: accumulators `[n, ...]` to start from, the identity element of `merge`.
      combine: takes the rows of two different blocks and the accumulators of both; returns both accumulators with the
        pairs of the two blocks added. Blocks may be padded with rows of zeros at their end.
      combine_self: takes the rows of one block and its accumulator; returns that with the pairs within the block added. A
        block begins with the first view of an image, and has an even number of rows.
      merge: joins two accumulators of the same rows.
      mesh: the devices; None for rows that are on one device.

    Returns:
      The accumulators after all pairs, as `init`, split as the rows are. Do not differentiate this function: write the
      gradient as another call.
    """
    run = functools.partial(
        _all_pairs_on_device, combine=combine, combine_self=combine_self, merge=merge, block=block_rows(mesh)
    )
    if mesh is None or mesh.size == 1:
        return run(rows, init, axes=(), devices=1)
    axes = tuple(mesh.axis_names)
    split = PartitionSpec(axes)
    if AxisType.Explicit in mesh.axis_types:  # as `jax.make_mesh` makes them: the compiler itself moves nothing
        rows, init = jax.tree.map(lambda array: jax.reshard(array, NamedSharding(mesh, split)), (rows, init))
    run = functools.partial(run, axes=axes, devices=mesh.size)
    # check_vma would require every constant in the loops to be marked as varying between devices. It protects gradients
    # through shard_map, and none is taken here.
    return jax.shard_map(run, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)(rows, init)


def block_rows(mesh: Mesh | None) -> int:
    """The largest number of rows in a block, on the devices of a mesh or on the default one."""
    platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
    return BLOCK_ON_CPU if platform == "cpu" else BLOCK


def _all_pairs_on_device(
    rows: Rows, init: Rows, *, combine, combine_self, merge, block: int, axes: tuple[str, ...], devices: int
):
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    local, init = _to_blocks(rows, num_rows, block), _to_blocks(init, num_rows, block)
    count = jax.tree.leaves(local)[0].shape[0]

    def within_block(i, acc):
        return _put(acc, i, combine_self(_get(local, i), _get(acc, i)))

    acc = lax.fori_loop(0, count, within_block, init)

    if count > 1:
        first, second = (jnp.asarray(index, jnp.int32) for index in np.triu_indices(count, 1))

        def between_local_blocks(number, acc):
            i, j = first[number], second[number]
            acc_i, acc_j = combine(_get(local, i), _get(local, j), _get(acc, i), _get(acc, j))
            return _put(_put(acc, i, acc_i), j, acc_j)

        acc = lax.fori_loop(0, len(first), between_local_blocks, acc)

    def with_visitor(visitor, acc, visitor_acc):
        def step(number, carry):
            acc, visitor_acc = carry
            i, j = number // count, number % count
            acc_i, acc_j = combine(_get(local, i), _get(visitor, j), _get(acc, i), _get(visitor_acc, j))
            return _put(acc, i, acc_i), _put(visitor_acc, j, acc_j)

        return lax.fori_loop(0, count * count, step, (acc, visitor_acc))

    def shift(tree, by=1):
        """Give every device what the device `by` positions ahead holds."""
        return lax.ppermute(tree, axes, [((position + by) % devices, position) for position in range(devices)])

    # Each pair of devices is computed on one of the two: the rows of the next half of the ring visit this device. The
    # accumulators of the visiting rows travel with them, and return to their own device at the end.
    rounds = (devices - 1) // 2
    visitor = shift(local) if devices > 1 else local
    if rounds:

        def ring_step(_, carry):
            visitor, acc, visitor_acc = carry
            next_visitor = shift(visitor)  # sent while the pairs with this one are computed
            acc, visitor_acc = with_visitor(visitor, acc, visitor_acc)
            return next_visitor, acc, shift(visitor_acc)

        visitor, acc, visitor_acc = lax.fori_loop(0, rounds, ring_step, (visitor, acc, init))
        acc = merge(acc, shift(visitor_acc, -(rounds + 1)))
    if devices % 2 == 0:  # the opposite device: both compute the pairs, and each keeps its own side
        acc, _ = with_visitor(visitor, acc, init)
    return _from_blocks(acc, num_rows)


def _to_blocks(tree: Rows, num_rows: int, block: int) -> Blocks:
    """`[rows, ...]` to `[blocks, rows of a block, ...]`, with zeros at the end where needed."""
    count, size = _block_shape(num_rows, block)

    def cut(array):
        padding = [(0, count * size - num_rows)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])

    return jax.tree.map(cut, tree)


def _block_shape(num_rows: int, block: int) -> tuple[int, int]:
    """(blocks, rows of a block): as evenly as possible, an even number of rows in each."""
    count = -(-num_rows // block)
    return count, 2 * -(-num_rows // (2 * count))


def _from_blocks(tree: Blocks, num_rows: int) -> Rows:
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_rows], tree)


def _get(tree: Blocks, index: Int[Array, ""]) -> PyTree[Shaped[Array, "block_rows ..."]]:
    return jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), tree)


def _put(tree: Blocks, index: Int[Array, ""], value: PyTree[Shaped[Array, "block_rows ..."]]) -> Blocks:
    return jax.tree.map(lambda array, part: lax.dynamic_update_index_in_dim(array, part, index, 0), tree, value)


def is_padded(num_rows: int, mesh: Mesh | None) -> bool:
    """Whether `all_pairs` has to pad its blocks when `num_rows` rows are split over the devices of a mesh."""
    rows = num_rows // (mesh.size if mesh is not None else 1)
    return math.prod(_block_shape(rows, block_rows(mesh))) != rows


# --- Sums of exponentials, block by block ---------------------------------------------------------------------------


def scaled_sum(
    logits: Float[Array, "rows columns"], axis: int, bound: float | None
) -> tuple[Float[Array, " kept"], Float[Array, " kept"]]:
    """(m, s) such that s exp(m) is the sum of exp(logits) along `axis`; m is the maximum, or `bound` if it is given."""
    if bound is not None:
        return jnp.full(logits.shape[1 - axis], bound, logits.dtype), jnp.sum(jnp.exp(logits - bound), axis)
    # Finite also where every logit is masked out.
    maximum = jnp.maximum(jnp.max(logits, axis), jnp.finfo(logits.dtype).min)
    return maximum, jnp.sum(jnp.exp(logits - jnp.expand_dims(maximum, axis)), axis)


def merge_sums(a: ScaledSums, b: ScaledSums) -> ScaledSums:
    """Add two partial results (m, s, ...) of the same rows, where s and all that follows are to be scaled by exp(m)."""
    running_max = jnp.maximum(a[0], b[0])
    scale_a, scale_b = jnp.exp(a[0] - running_max), jnp.exp(b[0] - running_max)
    return running_max, *(x * scale_a + y * scale_b for x, y in zip(a[1:], b[1:], strict=True))
