import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie
from store_engine.decoding.beam import beam_search
from store_engine.decoding.exclusion import Exclusion
from store_engine.decoding.trie_arrays import TrieArrays

EXCLUDED = [[], [0], [1, 1, 2], list(range(30)), list(range(5, 60))]


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("beam_width", [1, 4, 20, 100])
def test_equals_a_trie_without_the_excluded_items(make_bench, backend, beam_width):
    bench = make_bench(num_items=60)
    history = [3, 1, 4]
    rows = [np.array(one, dtype=np.int64) for one in EXCLUDED]
    got = beam_search(
        bench.model,
        bench.trie,
        bench.cache,
        bench.contexts([history] * len(rows)),
        beam_width,
        backend=backend,
        exclusion=Exclusion(bench.trie, rows),
    )
    for i, excluded in enumerate(rows):
        left = np.setdiff1d(np.arange(60), excluded)
        trie = TrieArrays(ItemTrie(bench.sids[left], list(bench.trie.codebook_sizes)))
        want = beam_search(
            bench.model, trie, bench.cache, bench.contexts([history]), beam_width, backend=backend
        )
        n = int(want.num_valid[0])
        assert int(got.num_valid[i]) == n
        torch.testing.assert_close(got.scores[i, :n], want.scores[0, :n], atol=1e-5, rtol=1e-5)
        assert (got.nodes[i, n:] == -1).all()
        assert sid_of(bench, bench.trie, got.nodes[i, :n]) == sid_of(
            bench, trie, want.nodes[0, :n], left
        )


def sid_of(bench, trie, leaves, catalogue=None):
    """The SIDs of leaves, through the first item of each."""
    offsets, rows = trie.item_trie.leaf_rows(leaves.numpy())
    rows = rows[offsets[:-1]]
    return bench.sids[rows if catalogue is None else catalogue[rows]].tolist()


def test_a_leaf_lives_while_one_of_its_items_does(make_bench):
    sids = np.array([[1, 2, 3], [0, 0, 0], [1, 2, 3]], dtype=np.int32)
    bench = make_bench(sids=sids)
    one, both = (Exclusion(bench.trie, [np.array(rows)]) for rows in ([0], [0, 2]))
    assert [one.num_dead(level) for level in range(3)] == [0, 0, 0]
    assert [both.num_dead(level) for level in range(3)] == [1, 1, 1]
    assert one.is_excluded(np.zeros(3, dtype=np.int64), np.arange(3)).tolist() == [
        True,
        False,
        False,
    ]


def test_mask(make_bench):
    bench = make_bench(num_items=4)
    exclusion = Exclusion(bench.trie, [np.array([1, 3]), np.array([], dtype=np.int64)])
    masked = exclusion.mask(torch.zeros(2, 4))
    assert (masked == -torch.inf).tolist() == [[False, True, False, True], [False] * 4]
