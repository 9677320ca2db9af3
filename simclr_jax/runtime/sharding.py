"""How arrays are distributed over devices: the mesh, shardings, and global arrays from the batches of each host.

The mesh has two axes, "data" and "fsdp". Batches are split over both. Parameters and optimiser state are replicated
over "data". Over "fsdp" the large ones are split, which saves memory and does not change the results. The step is written
for the global batch and `jax.jit` inserts the collectives, so BatchNorm statistics and the contrastive loss are global
without further code.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import UserError

AXES = ("data", "fsdp")

# For smaller arrays (BatchNorm, biases, the last layer of the head) a collective costs more than the memory it saves.
FSDP_MIN_SIZE = 2**16


def make_mesh(mesh: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the devices of all processes, with the axes "data" and "fsdp".

    Args:
      mesh: `config.mesh`: `data` and `fsdp`, the sizes of the axes. data=-1: the number of devices divided by fsdp.
      devices: default: all devices that JAX sees.

    Raises:
      UserError: if the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    fsdp = mesh.fsdp
    if fsdp < 1 or count % fsdp:
        sizes = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
        raise UserError(f"config.mesh.fsdp is {fsdp}, but has to divide the {count} devices: one of {sizes}.")
    if mesh.data not in (-1, count // fsdp):
        raise UserError(
            f"config.mesh is data={mesh.data}, fsdp={fsdp}, which does not fit the {count} devices: set config.mesh.data to "
            f"{count // fsdp}, or to -1 for any number of devices."
        )
    data = count // fsdp
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and devices[0].platform == "tpu" and data % slices == 0:
        # Parameters are gathered within a slice; only sums of gradients cross the slower network between slices.
        grid = mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), devices)
        return Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return jax.make_mesh((data, fsdp), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices: `[batch, ...]`."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def parts_sharded(mesh: Mesh) -> NamedSharding:
    """The second axis split over all devices: `[parts, batch, ...]`."""
    return NamedSharding(mesh, PartitionSpec(None, AXES))


def sharding_of(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter, a statistic or an entry of the optimiser state. It depends only on the shape.

    The largest dimension that is divisible by the size of "fsdp" is split over "fsdp"; of equal dimensions, the last. Small
    arrays, and arrays without such a dimension, are replicated.
    """
    fsdp = mesh.shape["fsdp"]
    if fsdp == 1 or math.prod(shape) < FSDP_MIN_SIZE:
        return replicated(mesh)
    dividing = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if not dividing:
        return replicated(mesh)
    split = max(dividing, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*["fsdp" if axis == split else None for axis in range(len(shape))]))


def shardings_of(tree: Any, mesh: Mesh) -> Any:
    """`sharding_of` for every leaf of a tree; a leaf is an array, or anything with a shape."""
    return jax.tree.map(lambda leaf: sharding_of(leaf.shape, mesh), tree)


def gather(params: Any, mesh: Mesh) -> Any:
    """Gathers the whole parameters on every device, inside a jitted function. Their gradients are split again.

    Without it the compiler may split activations instead, which costs more in a convolutional network.
    """
    if mesh.shape["fsdp"] == 1:
        return params

    @jax.custom_vjp
    def whole(leaf):
        return jax.lax.with_sharding_constraint(leaf, replicated(mesh))

    def forward(leaf):
        return whole(leaf), None

    def backward(_, gradient):
        return (jax.lax.with_sharding_constraint(gradient, sharding_of(gradient.shape, mesh)),)

    whole.defvjp(forward, backward)
    return jax.tree.map(whole, params)


@functools.lru_cache(maxsize=16)
def rounded_up(number: int, mesh: Mesh) -> int:
    """The next number that the devices of the mesh can share equally."""
    return -(-number // mesh.size) * mesh.size


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch on the devices of this process: sorted int64.

    On a CPU or GPU cluster they are one contiguous block. On TPUs they need not be, because the mesh follows the network
    between the chips.
    """
    blocks = batch_sharded(mesh).devices_indices_map((batch_size,))
    return rows_of_process(blocks, batch_size, jax.process_index())


def rows_of_process(blocks: Mapping[jax.Device, tuple[slice, ...]], batch_size: int, process_index: int) -> np.ndarray:
    """The rows of a batch on the devices of one process, sorted int64. `blocks` has the slice of each device."""
    mine = {rows[0].indices(batch_size)[:2] for device, rows in blocks.items() if device.process_index == process_index}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(mine)])


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays of a batch.

    Args:
      batch: the rows of this process (`local_rows`), each NumPy `[local batch, ...]`.
      mesh: the devices.

    Returns:
      Arrays `[batch, ...]`, split over all devices by the first axis.
    """
    sharding = batch_sharded(mesh)

    def part(value: np.ndarray) -> jax.Array:
        batch_size = len(value) * mesh.size // len(sharding.addressable_devices)
        rows = local_rows(mesh, batch_size)

        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(batch_size)
            first = np.searchsorted(rows, start)
            return value[first : first + stop - start]

        return jax.make_array_from_callback((batch_size, *value.shape[1:]), sharding, block)

    # The transfer guard of the loop would refuse this transfer, the only one to the devices in the loop.
    with jax.transfer_guard_host_to_device("allow"):
        return {key: part(value) for key, value in batch.items()}
