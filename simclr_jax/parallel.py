"""Processes, devices, and where arrays live: start-up, mesh, shardings, host batch to global array, preemption.

One mesh axis, "data": batches are split along it, everything else is replicated. The step is written for the global
batch and `jax.jit` inserts the collectives, so BatchNorm statistics and the contrastive loss are global by themselves.
"""

import socket

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np


def initialize() -> None:
    """Starts JAX's distributed runtime; binaries call it before anything touches a device.

    A lone process needs it as well: its preemption notifier turns SIGTERM, which would kill the process, into the
    answer of `preempted`.
    """
    if jax.distributed.is_initialized():
        return
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    # Its only task is this process: a missed heartbeat says no more than that a laptop was asleep.
    never = 10 * 365 * 24 * 3600
    jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0, heartbeat_timeout_seconds=never)


def make_mesh() -> Mesh:
    """All devices of all processes on one axis."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, NumPy `[local batch, ...]`, as its part of global arrays `[batch, ...]`."""
    sharding = batch_sharded(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


class Preemption:
    """Answers whether this run was asked to stop (SIGTERM), the same on every process, at the same call.

    Every process has to call it equally often. Without the distributed runtime (in a notebook, in tests) the answer is
    always no, and SIGTERM does what it does.
    """

    def __init__(self):
        self._calls = 0

    def __call__(self) -> bool:
        if not jax.distributed.is_initialized():
            return False
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)
