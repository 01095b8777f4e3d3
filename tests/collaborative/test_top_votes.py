"""An item's largest votes, kept in three ways."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from store_engine.collaborative import top_votes
from store_engine.collaborative.top_votes import TopVotes, top_entries, top_products, votes_at


def random_votes(num_items: int, seed: int = 0) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    dense = rng.integers(-3, 4, (num_items, num_items)) * (rng.random((num_items, num_items)) < 0.5)
    return sp.csr_array(dense.astype(np.float64))


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
    top = TopVotes(63, k)
    for begin in range(0, 63, 10):
        top.add(torch.from_numpy(votes.toarray()[begin : begin + 10].astype(np.float32)))
    # of equals either may be kept
    assert (np.sort(top.matrix().toarray(), 1) == np.sort(want, 1)).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize(
    "pattern", [random_votes(40, 1), sp.csr_array((40, 40))], ids=["some", "none"]
)
def test_votes_at_the_entries_of_another_matrix(pattern, block, monkeypatch):
    monkeypatch.setattr(top_votes, "_BLOCK_SOURCES", block)
    rows, columns = pattern.tocoo().coords
    for votes in (random_votes(40, 2), sp.csr_array((40, 40))):
        got = votes_at(votes, pattern)
        assert got.dtype == np.float32 and (got == votes.toarray()[rows, columns]).all()


def test_products_leave_the_item_itself_out():
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    got = top_products(vectors, vectors, 30).toarray()
    want = np.maximum(vectors @ vectors.T, 0)
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_large_catalogue_is_searched(monkeypatch):
    monkeypatch.setattr(top_votes, "_BLOCK_SOURCES", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    vectors = centres[rng.integers(0, 20, 3000)] + 0.3 * rng.normal(size=(3000, 16))
    vectors = vectors.astype(np.float32)
    want = top_products(vectors, vectors, 20)
    monkeypatch.setattr(top_votes, "_MAX_EXACT", 1000)
    got = top_products(vectors, vectors, 20)
    assert got.shape == want.shape and got.dtype == np.float32 and got.has_sorted_indices
    assert (got.diagonal() == 0).all() and np.diff(got.indptr).max() <= 20
    assert ((got != 0).multiply(want != 0)).sum() > 0.95 * want.nnz
