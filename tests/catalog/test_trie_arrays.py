import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.catalog.trie_arrays import TrieArrays

SIDS = np.array([[2, 0], [0, 1], [2, 0], [2, 3], [0, 0]], dtype=np.int32)


@pytest.fixture
def trie():
    return TrieArrays(ItemTrie(SIDS, [3, 4]))


def test_arrays(trie):
    assert trie.level_sizes == [1, 2, 4]
    assert [begin.tolist() for begin in trie.child_begin] == [[0, 2], [0, 2, 4]]
    assert [token.tolist() for token in trie.token] == [[0, 2], [0, 1, 0, 3]]
    assert trie.rows.tolist() == [4, 1, 0, 2, 3]
    assert trie.ranks.tolist() == [2, 1, 3, 4, 0]
    assert [begin.tolist() for begin in trie.item_begin] == [[0, 5], [0, 2, 5], [0, 1, 2, 4, 5]]


def test_children(trie):
    parent, child = trie.children(1, torch.tensor([1, 0, 1]))
    assert parent.tolist() == [0, 0, 1, 1, 2, 2]
    assert child.tolist() == [2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(("level", "begin", "end"), [(0, 0, 1), (1, 0, 2), (1, 1, 2), (1, 1, 1)])
def test_children_of_nodes_that_follow_each_other(trie, level, begin, end):
    parent, child = trie.children_between(level, begin, end)
    want = trie.children(level, torch.arange(begin, end))
    assert parent.tolist() == want[0].tolist()
    assert list(range(child.start, child.stop)) == want[1].tolist()


def test_leaves_below():
    sids = np.array([[0, 1, 2], [0, 2, 1], [1, 3, 0], [2, 0, 1], [2, 0, 3]], dtype=np.int32)
    trie = TrieArrays(ItemTrie(np.concatenate([sids, sids[:1]]), [3, 4, 4]))
    begins = [begin.tolist() for begin in trie.leaf_begin]
    assert begins == [[0, 5], [0, 2, 3, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    nodes = torch.tensor([[0, 1], [2, -1]])
    leaves, tokens = trie.unique_leaves(1, nodes)
    assert (leaves.tolist(), tokens.tolist()) == ([[-1, 2], [-1, -1]], [[-1, 0], [-1, -1]])
    leaves, tokens = trie.unique_leaves(2, nodes + 1)
    assert (leaves.tolist(), tokens.tolist()) == ([[1, 2], [-1, 0]], [[1, 0], [-1, 2]])
    assert trie.unique_leaves(3, nodes)[0].tolist() == nodes.tolist()


def test_find(trie):
    prefixes = torch.tensor([[2, 3], [0, 0], [1, 0], [2, 1], [2, 7], [-1, 2]])
    assert trie.find(prefixes).tolist() == [3, 0, -1, -1, -1, -1]
    assert trie.find(prefixes[:, :1]).tolist() == [1, 0, -1, 1, 1, -1]
    assert trie.find(prefixes[:, :0]).tolist() == [0] * 6
