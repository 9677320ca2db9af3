"""Where arrays live: mesh, shardings, host batch to global array.

The mesh has two axes, "data" and "fsdp". Batches are split over both. Parameters and optimiser state are replicated
over "data"; over "fsdp" the large ones are split as well, which saves memory and changes no number. The step is written
for the global batch and `jax.jit` inserts the collectives, so BatchNorm statistics and the contrastive loss are global
by themselves.
"""

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

# Smaller arrays (BatchNorm, biases, the head's last layer) are not worth a collective of their own.
FSDP_MIN_SIZE = 2**16


def make_mesh(mesh: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices of all processes as a mesh with the axes "data" and "fsdp".

    Args:
      mesh: `config.mesh`: `data` and `fsdp`, the sizes of the axes; -1 for data is all that fsdp leaves.
      devices: default: all that JAX sees.

    Raises:
      UserError: where the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    fsdp = mesh.fsdp
    if fsdp < 1 or count % fsdp:
        sizes = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
        raise UserError(f"config.mesh.fsdp is {fsdp}, but has to divide the {count} devices: one of {sizes}.")
    if mesh.data not in (-1, count // fsdp):
        raise UserError(
            f"config.mesh is data={mesh.data}, fsdp={fsdp}, which is not the {count} devices that are there: set "
            f"config.mesh.data to {count // fsdp}, or to -1 for whatever number there is."
        )
    data = count // fsdp
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and devices[0].platform == "tpu" and data % slices == 0:
        # Parameters are gathered within a slice; only the gradients' sums cross the slower network between slices.
        grid = mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), devices)
        return Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return jax.make_mesh((data, fsdp), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def parts_sharded(mesh: Mesh) -> NamedSharding:
    """The second axis over all devices: `[parts, batch, ...]`."""
    return NamedSharding(mesh, PartitionSpec(None, AXES))


def sharding_of(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where a parameter, a statistic or an entry of the optimiser state lives: a function of its shape alone.

    Over "fsdp" the largest dimension that this axis divides is split (of equals the last); small arrays are not.
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
    """`sharding_of` for every array, or shape, in a tree."""
    return jax.tree.map(lambda leaf: sharding_of(leaf.shape, mesh), tree)


def gather(params: Any, mesh: Mesh) -> Any:
    """The whole parameters on every device, inside a jitted function; their gradients come back split.

    Without it the compiler is free to split activations instead, which costs more in a convolutional network.
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
def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Which rows of a global batch this process's devices hold: sorted int64.

    On a CPU or GPU cluster they are one block. A TPU mesh follows the wiring of the chips, so there they need not be.
    """
    blocks = batch_sharded(mesh).devices_indices_map((batch_size,))
    return rows_of_process(blocks, batch_size, jax.process_index())


def rows_of_process(blocks: dict[jax.Device, tuple[slice, ...]], batch_size: int, process_index: int) -> np.ndarray:
    """The rows that `blocks`, each device's slice of the batch, gives to one process's devices, sorted."""
    mine = {rows[0].indices(batch_size)[:2] for device, rows in blocks.items() if device.process_index == process_index}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(mine)])


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows (`local_rows`) of a batch, NumPy `[local batch, ...]`, as its part of global arrays."""
    sharding = batch_sharded(mesh)

    def part(value: np.ndarray) -> jax.Array:
        batch_size = len(value) * mesh.size // len(sharding.addressable_devices)
        rows = local_rows(mesh, batch_size)

        def block(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            first = np.searchsorted(rows, start)
            return value[first : first + stop - start]

        return jax.make_array_from_callback((batch_size, *value.shape[1:]), sharding, block)

    # This is the loop's one transfer to the devices on purpose; its guard takes it for an accident.
    with jax.transfer_guard_host_to_device("allow"):
        return {key: part(value) for key, value in batch.items()}
