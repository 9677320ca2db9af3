"""The measures of representations: hand-computed values and laws."""

import math

import numpy as np
import pytest

from simclr_jax.diagnosis import colour
from simclr_jax.diagnosis import progress
from simclr_jax.diagnosis import score
from simclr_jax.diagnosis import spectrum
from simclr_jax.diagnosis import views


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rotation(dim):
    return np.linalg.qr(normal(dim, dim, seed=9).astype(np.float64))[0]


def test_rankme_is_the_entropy_of_the_singular_values():
    values = np.array([3.0, 1.0])  # of a diagonal matrix; shares 3/4 and 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert spectrum.rankme(np.diag(values)) == pytest.approx(expected, rel=1e-4)


def test_rankme_counts_the_dimensions_of_isotropic_points_whatever_their_scale_and_rotation():
    points = np.concatenate([normal(2000, 12), np.zeros((2000, 20), np.float32)], axis=1)
    assert spectrum.rankme(points) == pytest.approx(12, rel=0.02)
    assert spectrum.rankme(7.0 * points @ rotation(32)) == pytest.approx(spectrum.rankme(points), rel=1e-3)


def test_collapsed_points_have_no_dimensions():
    same = np.tile(normal(1, 8), (50, 1))
    assert spectrum.rankme(same) == pytest.approx(1, rel=1e-3)
    assert spectrum.entropy_rank(spectrum.spectrum(same)) == 0
    assert spectrum.feature_deviation(same) == pytest.approx(0, abs=1e-6)
    assert views.uniformity(same) == pytest.approx(0, abs=1e-6)
    assert not views.recognised(same, same).any()
    assert views.neighbour_overlap(same, same, 5).max() == 0
    assert views.lidar(np.tile(same[:, None], (1, 2, 1))) == 0


def test_the_spectrum_is_that_of_the_covariance():
    points = normal(300, 3) * np.array([4.0, 2.0, 1.0]) + 100
    expected = np.sort(np.linalg.eigvalsh(np.cov(points.T)))[::-1]
    np.testing.assert_allclose(spectrum.spectrum(points), expected / expected.sum(), rtol=1e-4)


def test_deviation_is_one_on_a_full_sphere():
    assert spectrum.feature_deviation(normal(4000, 16)) == pytest.approx(1, rel=0.02)


def test_alignment_of_equal_views_is_zero_and_of_orthogonal_ones_two():
    views_of = normal(20, 1, 6).repeat(3, axis=1)
    assert views.alignment(views_of) == pytest.approx(0, abs=1e-9)
    basis = np.tile(np.eye(2)[None], (4, 1, 1))  # two views, orthogonal
    assert views.alignment(basis) == pytest.approx(2)


def test_alignment_of_several_views_is_the_mean_over_pairs():
    views_of = normal(10, 4, 5)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    expected = np.mean([views.alignment(views_of[:, list(pair)]) for pair in pairs])
    assert views.alignment(views_of) == pytest.approx(expected)


def test_uniformity_of_two_opposite_points():
    assert views.uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)  # squared distance 4


def test_uniformity_of_a_sphere_is_that_of_independent_points():
    assert views.uniformity(normal(1000, 128)) == pytest.approx(-4, abs=0.1)  # nearly all pairs are orthogonal


def test_lidar_counts_what_tells_images_apart_not_what_views_vary():
    images, rest = normal(800, 1, 4), normal(800, 6, 10, seed=1)
    views_of = np.concatenate([np.broadcast_to(images, (800, 6, 4)) + 0.1 * normal(800, 6, 4, seed=2), rest], axis=2)
    assert views.lidar(views_of) == pytest.approx(4, rel=0.1)
    # RankMe counts the directions that only the views vary, too.
    assert spectrum.rankme(views_of.reshape(-1, 14)) > 12


def test_lidar_does_not_depend_on_an_invertible_linear_map():
    views_of = normal(300, 1, 6) + 0.3 * normal(300, 4, 6, seed=1)
    stretched = views_of @ (rotation(6) * np.array([1.0, 2.0, 3.0, 0.5, 1.5, 1.0]))
    assert views.lidar(stretched) == pytest.approx(views.lidar(views_of), rel=0.01)


def test_recognised_by_hand():
    images = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    queries = np.array([[0.9, 0.1], [1.0, 0.2], [-1.0, 0.1]])  # the second one is of the first image
    assert views.recognised(queries, images).tolist() == [True, False, True]


def test_neighbours_of_independent_points_overlap_by_chance_and_of_the_same_ones_fully():
    one, other = normal(400, 8), normal(400, 8, seed=1)
    assert views.neighbour_overlap(one, one * 3, 10).min() == 1
    assert views.neighbour_overlap(one, other, 10).mean() == pytest.approx(10 / 399, abs=0.01)


def test_histograms_are_of_colours_not_of_places():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    made = colour.histogram(images)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(colour.histogram(images[:, ::-1, ::-1]), made)
    red, blue = np.zeros((2, 1, 4, 4, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    # Black against full in two of three channels, and no joint bin in common: 1/4 of one channel is left.
    assert (colour.histogram(red) @ colour.histogram(blue).T).item() == pytest.approx(0.25)


def test_the_second_half_of_a_run_by_hand():
    lines = [{"step": step, "loss": 10 - 6 * min(step, 100) / 100} for step in range(1, 101)]
    found = progress.last_doubling(lines, chance=10)
    assert found["share"] == pytest.approx((7.0 - 4.27) / (10 - 4.27), abs=0.01)
    flat = [{"step": step, "loss": 4.0} for step in range(1, 101)]
    assert progress.last_doubling(flat, chance=10)["share"] == 0
    assert progress.last_doubling(flat, chance=3) is None
    assert progress.last_doubling(lines[:3], chance=10) is None


def test_the_score_rises_with_each_part_and_is_zero_after_a_collapse():
    low = dict.fromkeys(("recognised_crop_h", "recognised_colour_h", "recognised_crop_and_colour_h"), 0.3)
    low |= {"consistency_h": 0.2, "dimensions_h": 8.0}
    before = score.score(low, 64)
    assert 0 < before < 1
    for name, value in low.items():
        assert score.score(low | {name: value * 1.5}, 64) > before
    assert score.score(low | {"dimensions_h": 0.0}, 64) == 0
