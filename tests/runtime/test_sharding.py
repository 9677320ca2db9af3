"""Meshes, shardings and rows of any set of devices; parameters that are split over "fsdp"."""

import dataclasses

from helpers import compilations
from helpers import mesh_of
from helpers import some_variables
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.models.networks import SimCLR
from simclr_jax.runtime import sharding
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int


def test_a_mesh_has_the_sizes_that_were_asked_for():
    assert mesh_of(8).shape == {"data": 8, "fsdp": 1}
    assert mesh_of(8, fsdp=4).shape == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match=r"fsdp is 3, but has to divide the 8 devices: one of 1, 2, 4, 8"):
        mesh_of(8, fsdp=3)
    with pytest.raises(UserError, match=r"data=2, fsdp=2, .* set config.mesh.data to 4, or to -1"):
        sharding.make_mesh(ConfigDict({"data": 2, "fsdp": 2}), jax.devices())


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 512, 512), (None, None, None, "fsdp")),  # of equals the last
        ((1, 1, 2048, 512), (None, None, "fsdp", None)),
        ((7, 7, 3, 64), ()),  # too small
        ((2048,), ()),
        ((1001, 997), ()),  # nothing divides
    ],
)
def test_only_large_arrays_are_split_along_their_largest_dimension(shape, spec):
    mesh = mesh_of(8, fsdp=4)
    assert sharding.sharding_of(shape, mesh).spec == PartitionSpec(*spec)
    assert sharding.sharding_of(shape, mesh_of(8)).spec == PartitionSpec()


def test_the_rows_of_all_processes_are_every_row_once_whatever_the_order_of_the_devices():
    def rows_of(process, order):
        """Of a mesh whose devices 0 to 3 are one process's, and 4 to 7 another's."""
        devices = [Device(number, number // 4) for number in range(8)]
        blocks = {devices[number]: (slice(2 * place, 2 * place + 2),) for place, number in enumerate(order)}
        return sharding.rows_of_process(blocks, 16, process).tolist()

    assert [rows_of(process, range(8)) for process in (0, 1)] == [list(range(8)), list(range(8, 16))]
    # As the chips of a TPU may be wired: neighbours belong to different hosts.
    mixed = [rows_of(process, (0, 4, 1, 5, 2, 6, 3, 7)) for process in (0, 1)]
    assert mixed == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]
    np.testing.assert_array_equal(sharding.local_rows(mesh_of(8), 32), np.arange(32))


def test_a_batch_arrives_in_its_order():
    batch = {"x": np.arange(48).reshape(16, 3)}
    for mesh in (mesh_of(8), mesh_of(8, fsdp=2), mesh_of(4)):
        array = sharding.to_global(batch, mesh)["x"]
        np.testing.assert_array_equal(array, batch["x"])
        assert len({shard.data.shape for shard in array.addressable_shards}) == 1
        assert array.addressable_shards[0].data.shape[0] == 16 // mesh.size


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_split_parameters_train_as_replicated_ones_do(optimizer):
    with jax.enable_x64(True):
        config = config_lib.pretrain()
        config.model.update(depth=10, width=0.5, stem="cifar")
        config.batch_size, config.compute_dtype = 16, "float64"
        transform = {"lars": optax.lars(0.1, weight_decay=1e-4), "sgd": optax.sgd(0.1, momentum=0.9)}[optimizer]
        views = np.random.default_rng(0).integers(0, 255, (16, 2, 8, 8, 3), dtype=np.uint8)
        batch = {"views": views, "label": np.arange(16, dtype=np.int32) % 10}
        after = []
        for mesh in (mesh_of(8), mesh_of(8, fsdp=4)):

            def make_model(rngs):
                return SimCLR(config, 10, rngs=rngs)

            state = state_lib.new_state(*some_variables(make_model, mesh), transform, mesh)
            step = steps.make_pretrain_step(
                state_lib.graph_of(make_model), transform, lambda count: jnp.float32(0.1), config, mesh
            )
            with compilations() as compiled:
                for _ in range(2):
                    state, metrics = step(state, sharding.to_global(batch, mesh))
            assert compiled == ["pretrain_step"]
            after.append((state, metrics))
        (whole, whole_metrics), (split, split_metrics) = after
        np.testing.assert_allclose(split_metrics["loss"], whole_metrics["loss"], rtol=1e-10)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), split.params, whole.params)

        def held(state):
            """Bytes on one device."""
            return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

        assert held(split) < 0.35 * held(whole)
        big = split.params["encoder"]
        assert any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(big))
        assert any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(split.opt_state))
