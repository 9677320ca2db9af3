"""Pairs and clusters of representations whose groups are known."""

import numpy as np

from simclr_jax.diagnosis import alike


def grouped(each=20, groups=4, dim=8, seed=0):
    """float32 `[groups * each, dim]` around well separated centres, all far from the origin."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.eye(groups, dim), each, axis=0)
    return (100 + centres + 0.05 * rng.normal(size=centres.shape)).astype(np.float32)


def test_duplicates_are_the_first_pairs_and_no_image_is_in_two():
    features = grouped()
    features[[3, 50]], features[70] = features[10], features[30]
    pairs = alike.similar_pairs(features, 10)
    assert len(pairs) == 10
    # 3, 10 and 50 are equal, so two of them are a pair, and the third one goes with another image.
    assert {len({3, 10, 50} & set(pair.rows)) for pair in pairs[:2]} == {2, 0}
    assert {30, 70} in [set(pair.rows) for pair in pairs[:2]]
    assert pairs[0].title == pairs[1].title == "1.000"
    rows = np.concatenate([pair.rows for pair in pairs])
    assert len(set(rows)) == len(rows)
    titles = [float(pair.title) for pair in pairs]
    assert titles == sorted(titles, reverse=True)
    assert len(alike.similar_pairs(features[:5], 10)) == 2


def test_clusters_are_the_groups_with_the_most_typical_images_first():
    features = grouped(each=25)
    found = alike.clusters(features)
    assert [one.title for one in found] == ["25 images"] * 4
    assert {frozenset(one.rows // 25) for one in found} == {frozenset([group]) for group in range(4)}
    unit = alike.centred(features)
    for one in found:
        distances = np.linalg.norm(unit[one.rows] - unit[one.rows].mean(axis=0), axis=1)
        assert np.all(np.diff(distances) > -1e-6)


def test_equal_images_are_one_cluster_and_few_images_at_least_two():
    assert [len(one.rows) for one in alike.clusters(np.ones([20, 4], np.float32))] == [20]
    assert len(alike.clusters(grouped(each=5))) == 2


def test_the_pictures_of_a_group_are_its_first_images():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones([1, 2, 2, 3], np.uint8)
    [(title, shown)] = alike.pictures_of([alike.Alike("a", np.array([4, 0, 2]))], images, 2)
    assert title == "a"
    assert shown[:, 0, 0, 0].tolist() == [4, 0]
