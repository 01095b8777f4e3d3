import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from store_engine.sid.collisions import resolve_collisions, sid_report

CODES = arrays(np.int32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(0, 3))


def distances_to(codes, size):
    """Squared distances under which each item's own code is the nearest, 0 away."""
    return ((np.arange(size) - codes[:, :, None]) ** 2).astype(np.float32)


@given(CODES, st.sampled_from(["suffix", "reassign"]))
def test_every_item_gets_a_sid_of_its_own(codes, how):
    sids, sizes = resolve_collisions(codes, 4, distances_to(codes, 4), how)
    assert len(np.unique(sids, axis=0)) == len(codes)
    assert (sids >= 0).all()
    assert (sids < np.array(sizes)).all()


@given(CODES)
def test_suffix_keeps_the_codes_and_numbers_each_group(codes):
    sids, sizes = resolve_collisions(codes, 4, distances_to(codes, 4), "suffix")
    assert (sids[:, :2] == codes).all()
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert sizes == (4, 4, counts.max())


def test_share_changes_nothing():
    codes = np.array([[1, 2], [1, 2]], dtype=np.int32)
    sids, sizes = resolve_collisions(codes, 4, distances_to(codes, 4), "share")
    assert (sids == codes).all()
    assert sizes == (4, 4)


def test_reassign_moves_the_farther_item_to_the_nearest_free_sid():
    codes = np.array([[1, 1], [1, 1]], dtype=np.int32)
    distances = distances_to(codes, 4)
    distances[0] += 0.5  # item 0 is the farther one: it moves
    distances[0, 1, 2] = 0.6
    sids, sizes = resolve_collisions(codes, 4, distances, "reassign")
    assert sids.tolist() == [[1, 2], [1, 1]]
    assert sizes == (4, 4)


def test_report():
    sids = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [2, 0, 0]], dtype=np.int32)
    report = sid_report(sids, (4, 1, 2), num_codes=2)
    assert report["num_items"] == report["num_unique_sids"] == 4
    assert report["num_collision_groups"] == 1
    assert report["largest_group"] == 2
    first = report["levels"][0]
    assert (first["num_used"], first["usage"]) == (3, 0.75)
    assert first["perplexity"] == pytest.approx(np.exp(-(0.5 * np.log(0.5) + 0.5 * np.log(0.25))))
    assert report["levels"][1]["perplexity"] == pytest.approx(1.0)
