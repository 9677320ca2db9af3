"""Order: permutations, hosts that split every batch, resume anywhere."""

import itertools

from helpers import LAWS
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from simclr_jax.augment import tf_random
from simclr_jax.data import order
from simclr_jax.runtime.tensorflow import tf


def take(shard, count):
    return [int(position) for position in shard.positions().take(count)]


def test_every_epoch_is_a_permutation_and_epochs_differ():
    n = 50
    indices = [int(order.permuted(tf.constant(p, tf.int64), n, seed=3)) for p in range(3 * n)]
    epochs = np.reshape(indices, (3, n))
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    other = [int(order.permuted(tf.constant(p, tf.int64), n, seed=4)) for p in range(n)]
    assert not np.array_equal(epochs[0], other)


@LAWS
@given(
    num_examples=st.integers(1, 2000),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 2**40),
    attempt=st.integers(0, 3),
)
def test_any_epoch_of_any_number_of_examples_is_a_permutation(num_examples, seed, epoch, attempt):
    positions = tf.range(num_examples, dtype=tf.int64) + epoch * num_examples
    indices = order.permuted(positions, num_examples, seed, attempt).numpy()
    np.testing.assert_array_equal(np.sort(indices), np.arange(num_examples))


def test_a_shard_starts_at_its_step():
    assert take(order.HostShard(4), 10) == list(range(10))
    assert take(order.HostShard(4, start_step=5), 6) == list(range(20, 26))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_split_every_global_batch(hosts):
    shards = [order.HostShard(8, 3, 2, host, hosts) for host in range(hosts)]
    parts = [np.reshape(take(shard, 100), (2, 8 // hosts)) for shard in shards]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), np.reshape(range(24, 40), (2, 8)))
    assert take(order.HostShard(8, 3, 2, 0, hosts, rows=np.array([1, 6])), 9) == [25, 30, 33, 38]


@settings(LAWS, max_examples=8)
@given(
    hosts=st.integers(1, 6),
    rows_each=st.integers(1, 20),
    start=st.integers(0, 2**40),
    scattered=st.booleans(),
    seed=st.integers(0, 100),
)
def test_hosts_partition_any_batch(hosts, rows_each, start, scattered, seed):
    batch = hosts * rows_each
    shuffled = np.random.default_rng(seed).permutation(batch).reshape(hosts, rows_each)
    rows = list(np.sort(shuffled, axis=1)) if scattered else [None] * hosts
    shards = [order.HostShard(batch, start, 2, host, hosts, rows[host]) for host in range(hosts)]
    steps = np.concatenate([list(shard.positions_of_steps().as_numpy_iterator()) for shard in shards], axis=1)
    assert steps.shape == (2, batch)
    np.testing.assert_array_equal(np.sort(steps, axis=1), np.arange(2 * batch).reshape(2, batch) + start * batch)


@LAWS
@given(hosts=st.integers(1, 50), num_examples=st.integers(0, 10_000))
def test_pieces_of_hosts_partition_any_data_set(hosts, num_examples):
    pieces = [
        order.HostShard(hosts, process_index=host, process_count=hosts).piece(num_examples) for host in range(hosts)
    ]
    assert (pieces[0][0], pieces[-1][1]) == (0, num_examples)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))
    sizes = [stop - start for start, stop in pieces]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("hosts", [1, 3, 8])
def test_pieces_are_consecutive_and_together_everything(hosts):
    pieces = [order.HostShard(24, process_index=host, process_count=hosts).piece(50) for host in range(hosts)]
    assert [number for piece in pieces for number in range(*piece)] == list(range(50))


def test_all_random_streams_differ():
    position = tf.constant(7, tf.int64)
    seeds = [tf_random.crop_seed(0, position, view) for view in range(4)]
    seeds += [order.epoch_seed(0, position), tf_random.crop_seed(1, position, 0)]
    assert len({tuple(seed.numpy()) for seed in seeds}) == len(seeds)
    draws = [tf_random.uniforms(seed, position[None], view, 13).numpy() for seed in (0, 1, 2, -1) for view in range(2)]
    assert len(np.unique(draws)) == 8 * 13


def test_uniform_numbers_are_uniform_independent_and_of_their_position_alone():
    positions = tf.range(10_000, dtype=tf.int64)
    draws = tf_random.uniforms(0, positions, 0, 13).numpy()
    np.testing.assert_array_equal(tf_random.uniforms(0, positions[77:80], 0, 13), draws[77:80])
    assert 0 <= draws.min() < 1e-3
    assert 1 - 1e-3 < draws.max() < 1
    for column in range(13):
        assert stats.kstest(draws[:, column], "uniform").pvalue > 1e-4
    neighbours = np.concatenate([draws[1:], tf_random.uniforms(0, positions, 1, 13).numpy()[1:]], axis=1)
    correlation = np.corrcoef(draws[:-1].T, neighbours.T)
    correlation[np.arange(39), np.arange(39)] = 0
    assert np.max(np.abs(correlation)) < 5 / np.sqrt(len(draws))


def test_many_positions_at_once_are_shuffled_as_one_by_one():
    positions = tf.range(30, dtype=tf.int64)
    together = order.permuted(positions, 12, 3, 1).numpy()
    np.testing.assert_array_equal(together, [order.permuted(position, 12, 3, 1).numpy() for position in positions])
    assert sorted(together[:12]) == sorted(together[12:24]) == list(range(12))
