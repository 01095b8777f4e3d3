"""Votes of recent events, rankings by them, and an item's largest votes."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from store_engine.collaborative import neighbours
from store_engine.collaborative.neighbours import (
    TopNeighbours,
    rank_neighbours,
    recent_events,
    top_entries,
    top_products,
)


def rows(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def random_votes(num_items: int, seed: int = 0) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    dense = rng.integers(-3, 4, (num_items, num_items)) * (rng.random((num_items, num_items)) < 0.5)
    return sp.csr_array(dense.astype(np.float64))


def test_recent_events_decay_from_the_end():
    got = recent_events(rows([3, 1, 0], [], [2, 2]), 4, 0.5, 2).toarray()
    assert got.tolist() == [[1, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1.5, 0]]


def test_nobody_has_no_events():
    assert recent_events([], 4, 0.5, 2).shape == (0, 4)


@pytest.mark.parametrize("exclude", [True, False], ids=["left out", "allowed"])
def test_ranking_against_a_loop(exclude):
    votes, histories = random_votes(63), rows([1, 5, 5, 9], [], [0], list(range(63)))
    events = recent_events(histories, 63, 0.5, 3)
    got = rank_neighbours(votes, events, histories, 63, exclude)
    for user, history in enumerate(histories):
        scores = np.zeros(63)
        for back, row in enumerate(history[::-1][:3]):
            scores += 0.5**back * votes.toarray()[row]
        if exclude:
            scores[history] = 0
        want = [row for row in np.argsort(-scores, kind="stable") if scores[row] != 0]
        assert got[user].tolist() == want + [-1] * (63 - len(want))


@pytest.mark.parametrize("k", [1, 2, 63, 1000])
def test_the_largest_votes_of_an_item(k):
    votes = random_votes(63, seed=3)
    dense = np.where(np.eye(63, dtype=bool), 0, votes.toarray())
    want = np.zeros_like(dense)
    for row in range(63):
        best = np.argsort(-dense[row], kind="stable")[:k]
        want[row, best] = np.maximum(dense[row, best], 0)
    got = top_entries(votes, k)
    assert (got.toarray() == want).all() and got.dtype == np.float32 and (got.data > 0).all()
    top = TopNeighbours(63, k)
    for begin in range(0, 63, 10):
        top.add(torch.from_numpy(votes.toarray()[begin : begin + 10].astype(np.float32)))
    # of equals either may be kept
    assert (np.sort(top.matrix().toarray(), 1) == np.sort(want, 1)).all()


def test_products_leave_the_item_itself_out():
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    got = top_products(vectors, vectors, 30).toarray()
    want = np.maximum(vectors @ vectors.T, 0)
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_large_catalogue_is_searched(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_SOURCES", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    vectors = centres[rng.integers(0, 20, 3000)] + 0.3 * rng.normal(size=(3000, 16))
    vectors = vectors.astype(np.float32)
    want = top_products(vectors, vectors, 20)
    monkeypatch.setattr(neighbours, "_MAX_EXACT", 1000)
    got = top_products(vectors, vectors, 20)
    assert got.shape == want.shape and got.dtype == np.float32 and got.has_sorted_indices
    assert (got.diagonal() == 0).all() and np.diff(got.indptr).max() <= 20
    assert ((got != 0).multiply(want != 0)).sum() > 0.95 * want.nnz
