import time

import numpy as np
import pytest

from store_engine.errors import InputError
from store_engine.sid import clusters
from store_engine.sid.clusters import (
    assign_new,
    balanced_clusters,
    item_sids,
    prefix_centres,
    rank_within,
    with_item_level,
)


def normal(num_items, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((num_items, dim)).astype(np.float32)


def groups(num_items, num_groups, spread=0.01):
    """Points in tight groups, and the group of each."""
    labels = np.arange(num_items) % num_groups
    return normal(num_groups, seed=1)[labels] * 10 + spread * normal(num_items), labels


@pytest.mark.parametrize(
    ("num_items", "num_clusters", "max_size"),
    [(1, 1, 1), (2, 1, 2), (2, 2, 1), (7, 3, 3), (64, 8, 8), (1000, 63, 16), (1000, 63, 1000)],
)
def test_no_cluster_is_empty_and_none_above_the_bound(num_items, num_clusters, max_size):
    for vectors in normal(num_items), np.ones((num_items, 8), np.float32):
        labels = balanced_clusters(vectors, num_clusters, max_size, seed=0)
        sizes = np.bincount(labels, minlength=num_clusters)
        assert labels.dtype == np.int32
        assert len(sizes) == num_clusters
        assert 1 <= sizes.min() <= sizes.max() <= max_size
        assert (balanced_clusters(vectors, num_clusters, max_size, seed=0) == labels).all()


def test_groups_that_fit_are_found():
    vectors, truth = groups(240, 6)
    labels = balanced_clusters(vectors, 6, 40, seed=3)
    assert len(np.unique(np.column_stack([labels, truth]), axis=0)) == 6


@pytest.mark.parametrize(("num_clusters", "max_size"), [(0, 9), (10, 9), (3, 2)])
def test_bounds_that_cannot_be_met_are_refused(num_clusters, max_size):
    with pytest.raises(ValueError, match="clusters"):
        balanced_clusters(normal(9), num_clusters, max_size, seed=0)


@pytest.mark.parametrize(
    ("num_items", "codebook_size", "num_levels"),
    [(1, 64, 2), (2, 64, 2), (7, 2, 2), (1000, 64, 2), (1025, 1 << 16, 2), (5000, 4, 3)],
)
def test_item_sids_are_of_the_stated_form(num_items, codebook_size, num_levels):
    for vectors in normal(num_items), np.zeros((num_items, 8), np.float32):
        sids, sizes = item_sids(vectors, codebook_size, seed=0)
        assert sids.shape == (num_items, num_levels)
        assert len(np.unique(sids, axis=0)) == num_items
        for level, size in enumerate(sizes[:-1]):
            assert size <= codebook_size
            assert (np.unique(sids[:, level]) == np.arange(size)).all()  # every code is in use
        _, counts = np.unique(sids[:, :-1], axis=0, return_counts=True)
        assert 2 * counts.max() <= sizes[-1] < 4 * counts.max()
        assert sizes[-1].bit_count() == 1
        if num_levels == 2:
            assert counts.max() <= np.ceil(1.35 * num_items / len(counts))
        assert (item_sids(vectors, codebook_size, seed=0)[0] == sids).all()


def test_items_of_a_cluster_are_numbered_by_row():
    sids, _ = item_sids(normal(300), 16, seed=0)
    for cluster in range(16):
        last = sids[sids[:, 0] == cluster, 1]
        assert (last == np.arange(len(last))).all()


def test_too_few_codes_and_vectors_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="codebook_size"):
        item_sids(normal(2000), 1, seed=0)
    vectors = normal(20)
    vectors[4, 2] = np.nan
    with pytest.raises(InputError, match="1 of 20 items, first of row 4"):
        item_sids(vectors, 4, seed=0)


def test_a_hundred_thousand_items_take_seconds():
    begin = time.monotonic()
    sids, sizes = item_sids(normal(100_000, dim=32), 128, seed=0)
    assert len(np.unique(sids, axis=0)) == len(sids)
    assert sizes[0] == 128
    assert time.monotonic() - begin < 10


def test_prefix_centres_are_the_means_of_the_items():
    vectors = normal(500)
    sids, _ = item_sids(vectors, 16, seed=0)
    prefixes, centres = prefix_centres(vectors, sids)
    for prefix, centre in zip(prefixes, centres, strict=True):
        here = (sids[:, :-1] == prefix).all(1)
        np.testing.assert_allclose(centre, vectors[here].mean(0), rtol=1e-4, atol=1e-5)


def test_a_new_item_goes_to_the_nearest_cluster():
    vectors, _ = groups(240, 6)
    sids, sizes = item_sids(vectors, 6, seed=0)
    new = vectors[:12] + 0.01
    found = assign_new(new, *prefix_centres(vectors, sids), sids, sizes[-1])
    assert (found[:, :-1] == sids[:12, :-1]).all()
    together = np.concatenate([sids, found])
    assert len(np.unique(together, axis=0)) == len(together)
    assert (together < np.array(sizes)).all()


def test_new_items_fill_the_lowest_free_codes_then_the_next_cluster_then_nothing():
    centres = np.array([[0], [1], [9]], np.float32)
    prefixes = np.array([[0], [1], [2]], np.int32)
    sids = np.array([[0, 1], [1, 0], [1, 1], [1, 2], [2, 0]], np.int32)
    zeros = np.zeros((4, 1), np.float32)
    found = assign_new(zeros[:2], prefixes, centres, sids, last_size=3)
    assert found.tolist() == [[0, 0], [0, 2]]
    found = assign_new(zeros, prefixes, centres, sids, last_size=3)
    assert found.tolist() == [[0, 0], [0, 2], [2, 1], [2, 2]]
    with pytest.raises(InputError, match=r"5 new items do not fit.*room for 4"):
        assign_new(np.zeros((5, 1), np.float32), prefixes, centres, sids, last_size=3)


@pytest.mark.parametrize("with_keys", [False, True])
def test_rank_within_equals_a_loop(with_keys):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 63)
    keys = rng.integers(0, 4, 63).astype(np.float32) if with_keys else np.zeros(63, np.float32)
    want = np.empty(63, int)
    for label in range(5):
        rows = sorted(np.flatnonzero(labels == label), key=lambda row: (keys[row], row))
        want[rows] = np.arange(len(rows))
    assert (rank_within(labels, keys if with_keys else None) == want).all()


def test_items_are_numbered_within_their_codes():
    prefixes = np.array([[1, 0], [0, 2], [1, 0], [1, 1], [0, 2], [1, 0]], dtype=np.int32)
    sids, last_size = with_item_level(prefixes)
    assert sids.dtype == np.int32
    assert (sids[:, :2] == prefixes).all()
    assert sids[:, 2].tolist() == [0, 0, 1, 0, 1, 2]
    assert last_size == 8  # room for three more


def test_more_items_of_one_code_than_a_level_holds_are_refused(monkeypatch):
    monkeypatch.setattr(clusters, "MAX_CODEBOOK_SIZE", 3)
    assert with_item_level(np.array([[5], [5], [5]], dtype=np.int32))[1] == 3
    with pytest.raises(InputError, match=r"4 items have the codes \(5,\): at most 3 can"):
        with_item_level(np.array([[1], [5], [5], [5], [5]], dtype=np.int32))
