"""Data in device memory: each epoch is a permutation, no device holds all images, only a batch is communicated."""

import re
from unittest import mock

from helpers import LAWS
from helpers import mesh_of
from helpers import write_image
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest
from scipy import stats

from simclr_jax.data import decoded
from simclr_jax.data import resident
from simclr_jax.data.decoded import as_arrays
from simclr_jax.data.resident import Resident
from simclr_jax.data.resident import permuted
from simclr_jax.data.sources import digits
from simclr_jax.data.sources import folder
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding

# --- Order ---------------------------------------------------------------------------------------------------------


permute = jax.jit(permuted, static_argnums=1)


def epochs(num_examples, count, seed=0, start=0):
    """`[count, n]`: the order of `count` epochs."""
    positions = np.arange(start * num_examples, (start + count) * num_examples, dtype=np.uint32)
    order = permute(positions, num_examples, seed)
    assert order.dtype == jnp.int32
    return np.asarray(order).reshape(count, num_examples)


@pytest.mark.slow
@pytest.mark.parametrize("num_examples", [1, 2, 3, 5, 7, 16, 17, 1437, 50_000])
def test_every_epoch_is_a_permutation_and_another_one(num_examples):
    orders = epochs(num_examples, 3)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(num_examples), (3, 1)))
    if num_examples >= 16:
        other_seed = epochs(num_examples, 3, seed=1)
        assert len(np.unique(np.concatenate([orders, other_seed]), axis=0)) == 6


@pytest.mark.slow
@settings(LAWS, max_examples=10)
@given(num_examples=st.integers(1, 400), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 2**23))
def test_any_epoch_of_any_number_of_examples_is_a_permutation(num_examples, seed, epoch):
    (order,) = epochs(num_examples, 1, seed, start=epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_a_position_needs_no_other_and_may_be_late():
    positions = np.arange(2**32 - 100, 2**32, dtype=np.uint32)
    order = np.asarray(permute(positions, 1437, 0))
    assert len(set(order.tolist())) == 100
    np.testing.assert_array_equal(permute(positions[::-1], 1437, 0), order[::-1])
    first = permute(np.arange(100, dtype=np.int32), 1437, 0)
    np.testing.assert_array_equal(first, epochs(1437, 3)[0, :100])


@pytest.mark.parametrize("num_examples", [3, 5])
def test_all_orders_of_few_examples_are_equally_frequent(num_examples):
    orders = epochs(num_examples, 6000)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == np.prod(np.arange(1, num_examples + 1))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_example_lands_anywhere_and_neighbours_are_independent():
    num_examples, count = 101, 2000
    orders = epochs(num_examples, count)
    for place in (0, 1, 50, 100):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=num_examples)).pvalue > 1e-3
    limit = 5 / np.sqrt(orders.size)

    def correlation(one, other):
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)])

    # Without replacement neighbours are anticorrelated by 1 / n.
    assert abs(correlation(orders[:, :-1], orders[:, 1:]) + 1 / num_examples) < limit
    assert abs(correlation(orders[:-1], orders[1:])) < limit
    steps = (np.diff(orders, axis=1) % num_examples).ravel()
    assert stats.chisquare(np.bincount(steps, minlength=num_examples)[1:]).pvalue > 1e-3
    fixed = (orders == np.arange(num_examples)).sum(axis=1)
    assert fixed.mean() == pytest.approx(1, abs=5 / np.sqrt(count))


# --- In device memory ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (77, 6, 5, 3), dtype=np.uint8), rng.integers(0, 10, 77).astype(np.int32)


MESHES = [(1, 1), (8, 1), (8, 2)]


@pytest.mark.parametrize(("devices", "fsdp"), MESHES)
def test_a_batch_holds_the_examples_that_were_asked_for(arrays, devices, fsdp):
    images, labels = arrays
    mesh = mesh_of(devices, fsdp)
    resident = Resident.put(images, labels, mesh)
    indices = np.array([0, 76, 5, 5, 76, 33, 12, 1, 70, 71, 72, 73, 74, 75, 9, 10], np.int32)
    taken, taken_labels = jax.jit(Resident.take)(resident, indices)
    assert (taken.dtype, taken_labels.dtype) == (jnp.uint8, jnp.int32)
    np.testing.assert_array_equal(taken, images[indices])
    np.testing.assert_array_equal(taken_labels, labels[indices])
    assert {shard.data.shape[0] for shard in taken.addressable_shards} == {16 // devices}


def test_batches_run_through_the_epochs(arrays):
    images, labels = arrays
    resident = Resident.put(images, labels, mesh_of(8))

    @jax.jit
    def batch(resident, step):
        return resident.batch(step * 8 + jnp.arange(8), seed=3)

    batches = [batch(resident, step) for step in range(20)]
    order = epochs(77, 3, seed=3).reshape(-1)[: 20 * 8]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), images[order])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), labels[order])


@pytest.mark.parametrize(("devices", "fsdp"), MESHES)
def test_no_device_holds_the_whole_data(arrays, devices, fsdp):
    resident = Resident.put(*arrays, mesh_of(devices, fsdp))
    rows = -(-77 // devices)
    assert {shard.data.shape for shard in resident.images.addressable_shards} == {(rows, 6, 5, 3)}
    assert {shard.data.shape for shard in resident.labels.addressable_shards} == {(rows,)}
    assert resident.num_examples == 77
    np.testing.assert_array_equal(resident.images[:77], arrays[0])
    assert not np.any(resident.images[77:])


@pytest.mark.parametrize("fsdp", [1, 2])
@pytest.mark.parametrize("split_positions", [False, True])
def test_only_the_batch_is_communicated(arrays, fsdp, split_positions):
    mesh = mesh_of(8, fsdp)
    resident = Resident.put(*arrays, mesh)
    where = sharding.batch_sharded(mesh) if split_positions else sharding.replicated(mesh)
    positions = jax.device_put(np.arange(16, dtype=np.uint32), where)
    text = (
        jax.jit(lambda resident, positions: resident.batch(positions, 0)).lower(resident, positions).compile().as_text()
    )
    collectives = re.findall(r"= (\w+)\[([\d,]*)\]\S* (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(", text)
    assert any(kind == "u8" for kind, _, _ in collectives)
    for kind, shape, name in collectives:
        size = np.prod([int(side) for side in shape.split(",")])
        assert size <= 16 * 6 * 5 * 3, f"{name} of {kind}[{shape}]"
        assert name != "all-gather" or (kind, shape) == ("u32", "16"), (
            f"only positions are gathered, not {kind}[{shape}]"
        )
    assert not re.search(r"u8\[(77|80),", text), "the whole data set appears"


def test_a_data_set_smaller_than_the_devices_is_padded():
    images, labels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3), np.array([2, 1, 0], np.int32)
    resident = Resident.put(images, labels, mesh_of(8))
    taken, taken_labels = jax.jit(lambda resident: resident.batch(jnp.arange(24), 0))(resident)
    order = epochs(3, 8).reshape(-1)
    np.testing.assert_array_equal(taken, images[order])
    np.testing.assert_array_equal(taken_labels, labels[order])


# --- Sources -------------------------------------------------------------------------------------------------------


def test_more_than_the_devices_have_room_for_is_refused_before_it_is_read(monkeypatch):
    source = digits.open_digits("train")
    each = -(-1437 // 8) * 8 * 8 * 3
    read = []
    decode = decoded.decode
    monkeypatch.setattr(decoded, "decode", lambda *args: read.append(args) or decode(*args))
    monkeypatch.setattr(resident, "free_bytes", lambda device: each - (device == jax.devices()[3]))
    with pytest.raises(
        UserError, match=r"1437 images of 8 x 8 x 3 take 0\.00 GiB on each of 8 device\(s\), which have 0\.00"
    ):
        Resident.load(source, mesh_of(8))
    assert not read
    monkeypatch.setattr(resident, "free_bytes", lambda device: each)
    assert Resident.load(source, mesh_of(8)).num_examples == 1437


def test_a_device_that_knows_its_memory_is_asked():
    device = mock.Mock(spec=jax.Device)
    device.memory_stats.return_value = {"bytes_limit": 1000, "bytes_in_use": 300}
    assert resident.free_bytes(device) == 700
    assert 2**27 < resident.free_bytes(jax.devices()[0]) < 2**45


def test_digits_as_arrays_and_in_device_memory():
    source = digits.open_digits("test")
    images, labels = as_arrays(source)
    assert images.shape == (360, 8, 8, 3)
    np.testing.assert_array_equal(labels, source.labels)
    np.testing.assert_array_equal(images[77], source.fetch(77))
    resident = Resident.load(source, mesh_of(8))
    np.testing.assert_array_equal(resident.images[:360], images)
    np.testing.assert_array_equal(resident.labels[:360], labels)


def photos(root):
    return folder.open_folder(ConfigDict({"root": str(root), "train_split": "train", "test_split": None}), "train")


def test_files_are_decoded_in_their_order(tmp_path):
    for number, format in enumerate(["png", "jpg", "webp"]):
        write_image(tmp_path / f"{number}.{format}", seed=number)
    source = photos(tmp_path)
    images, labels = as_arrays(source)
    assert images.shape == (3, 20, 24, 3)
    np.testing.assert_array_equal(labels, [-1, -1, -1])
    assert len({image.tobytes() for image in images}) == 3
    np.testing.assert_array_equal(Resident.load(source, mesh_of(8)).images[:3], images)


def test_the_first_image_of_another_shape_is_named(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.png", seed=number, size=(20, 30) if number >= 4 else (20, 24))
    for load in (as_arrays, lambda source: Resident.load(source, mesh_of(8))):
        with pytest.raises(UserError, match=r"one shape, but \S*/4.png is 20x30 and \S*/0.png is 20x24"):
            load(photos(tmp_path))


@pytest.mark.parametrize("number", [0, 3])
def test_an_image_that_cannot_be_read_is_named(tmp_path, number):
    for index in range(5):
        write_image(tmp_path / f"{index}.jpg", seed=index)
    broken = tmp_path / f"{number}.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"cannot read the image \S*/{number}.jpg"):
        as_arrays(photos(tmp_path))
