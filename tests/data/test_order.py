"""Order and shares: permutations, disjoint hosts, resume anywhere."""

import numpy as np
import pytest
from scipy import stats

from simclr_jax.augment import tf_random
from simclr_jax.data import order
from simclr_jax.runtime.tensorflow import tf


def take(share, count):
    return [int(position) for position in share.positions().take(count)]


def test_every_epoch_is_a_permutation_and_epochs_differ():
    n = 50
    indices = [int(order.permuted(tf.constant(p, tf.int64), n, seed=3)) for p in range(3 * n)]
    epochs = np.reshape(indices, (3, n))
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    other = [int(order.permuted(tf.constant(p, tf.int64), n, seed=4)) for p in range(n)]
    assert not np.array_equal(epochs[0], other)


def test_a_share_starts_at_its_step():
    assert take(order.Share(4), 10) == list(range(10))
    assert take(order.Share(4, start_step=5), 6) == list(range(20, 26))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_split_every_global_batch(hosts):
    shares = [order.Share(8, 3, 2, host, hosts) for host in range(hosts)]
    parts = [np.reshape(take(share, 100), (2, 8 // hosts)) for share in shares]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), np.reshape(range(24, 40), (2, 8)))
    assert take(order.Share(8, 3, 2, 0, hosts, rows=np.array([1, 6])), 9) == [25, 30, 33, 38]


@pytest.mark.parametrize("hosts", [1, 3, 8])
def test_pieces_are_consecutive_and_together_everything(hosts):
    pieces = [order.Share(24, process_index=host, process_count=hosts).piece(50) for host in range(hosts)]
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
    others = np.concatenate([draws[1:], tf_random.uniforms(0, positions, 1, 13).numpy()[1:]], axis=1)
    correlation = np.corrcoef(draws[:-1].T, others.T)
    correlation[np.arange(39), np.arange(39)] = 0
    assert np.max(np.abs(correlation)) < 5 / np.sqrt(len(draws))


def test_many_positions_at_once_are_shuffled_as_one_by_one():
    positions = tf.range(30, dtype=tf.int64)
    together = order.permuted(positions, 12, 3, 1).numpy()
    np.testing.assert_array_equal(together, [order.permuted(position, 12, 3, 1).numpy() for position in positions])
    assert sorted(together[:12]) == sorted(together[12:24]) == list(range(12))
