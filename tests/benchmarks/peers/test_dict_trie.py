import pytest
import torch

from benchmarks.peers.dict_trie import DictTrie


def test_it_lists_what_follows_a_prefix():
    trie = DictTrie([(1, 2, 3), (1, 2, 4), (1, 5, 3), (2, 2, 2)])
    prefixes = ([], [1], [1, 2], [1, 2, 3])
    found = [sorted(trie.following(torch.tensor(p, dtype=torch.int64))) for p in prefixes]
    assert found == [[1, 2], [2, 5], [3, 4], []]
    with pytest.raises(KeyError):
        trie.following(torch.tensor([2, 5]))
