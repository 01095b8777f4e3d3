import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.backends import SearchSpace
from store_engine.decoding.ranking import rank_beams, rank_scores
from store_engine.kernels.trie_topk import Beams

# leaves by SID: 0 holds row 3, 1 holds rows 0 and 2, 2 holds row 1, 3 holds row 4
SIDS = np.array([[0, 1], [1, 0], [0, 1], [0, 0], [2, 2]], dtype=np.int32)


def space_of(excluded=None):
    trie = TrieArrays(ItemTrie(SIDS, [3, 3]))
    if excluded is None:
        return SearchSpace(trie)
    return SearchSpace(
        trie,
        ItemFilter(trie, [None] * len(excluded), [np.array(rows, np.int64) for rows in excluded]),
    )


def beams_of(leaves, scores):
    leaves = torch.tensor(leaves)
    num_valid = (leaves >= 0).sum(1)
    return Beams(torch.tensor(scores), leaves, leaves, leaves, num_valid, num_valid < 0)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_items_of_the_best_leaves_in_order(k):
    inf = np.inf
    beams = beams_of([[1, 3, 0], [2, -1, -1]], [[-1.0, -2.0, -3.0], [-0.5, -inf, -inf]])
    rows, logprobs = rank_beams(space_of(), beams, k)
    want_rows = [[0, 2, 4, 3, -1, -1, -1], [1, -1, -1, -1, -1, -1, -1]]
    want = [[-1, -1, -2, -3, -inf, -inf, -inf], [-0.5] + [-inf] * 6]
    assert rows.tolist() == [one[:k] for one in want_rows]
    assert logprobs.tolist() == [one[:k] for one in want]


def test_of_a_shared_sid_the_items_that_a_request_may_be_given():
    beams = beams_of([[1, 3]] * 3, [[-1.0, -2.0]] * 3)
    rows, _ = rank_beams(space_of([[0], [2, 4], [0, 2]]), beams, 3)
    assert rows.tolist() == [[2, 4, -1], [0, -1, -1], [4, -1, -1]]


def test_scores_rank_by_sid_among_equals():
    scores = torch.tensor([[-1.0, -1.0, -1.0, -1.0, -0.5], [-9.0, -1.0, -9.0, -2.0, -3.0]])
    rows, logprobs = rank_scores(space_of(), scores, 7)
    assert rows.tolist() == [[4, 3, 0, 2, 1, -1, -1], [1, 3, 4, 0, 2, -1, -1]]
    assert logprobs[0].tolist() == [-0.5, -1, -1, -1, -1, -np.inf, -np.inf]


def test_scores_of_items_that_a_request_may_not_be_given():
    scores = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0]] * 2)
    rows, _ = rank_scores(space_of([[0, 3], []]), scores, 2)
    assert rows.tolist() == [[1, 2], [0, 1]]
