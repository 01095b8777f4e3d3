import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie, RowSet
from store_engine.catalog.item_filter import ItemFilter
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.decoding.backends import SearchSpace, resolve_backend
from store_engine.kernels.trie_topk import root_beams

EVERY = np.arange(60)
ALLOWED = [None, None, EVERY[::3].copy(), EVERY[:1], EVERY[:0], EVERY[10:50], None]
EXCLUDED = [[], [1, 1, 2], [0, 3, 4], [0], [], list(range(5, 49)), list(range(59))]
LEFT = [
    np.setdiff1d(EVERY if rows is None else rows, excluded)
    for rows, excluded in zip(ALLOWED, EXCLUDED, strict=True)
]


def make_filter(trie):
    sets = [
        None if rows is None else RowSet.from_rows(trie.item_trie, np.array(rows))
        for rows in ALLOWED
    ]
    return ItemFilter(trie, sets, [np.array(rows, dtype=np.int64) for rows in EXCLUDED])


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("beam_width", [1, 4, 20, 100])
def test_equals_a_trie_of_the_allowed_items(make_bench, backend, beam_width, normalize):
    bench = make_bench(num_items=60)
    history, options = [3, 1, 4], {"normalize": normalize, "backend": backend}
    item_filter = make_filter(bench.trie)
    got = bench.search([history] * len(LEFT), beam_width, item_filter=item_filter, **options)
    for i, left in enumerate(LEFT):
        if not len(left):
            assert int(got.num_valid[i]) == 0
            continue
        trie = TrieArrays(ItemTrie(bench.sids[left], list(bench.trie.codebook_sizes)))
        want = bench.search([history], beam_width, trie=trie, **options)
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


@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_a_wide_beam_equals_exact_scoring(make_bench, normalize):
    bench = make_bench(num_items=60)
    item_filter = make_filter(bench.trie)
    histories, space = [[3, 1, 4]] * len(LEFT), {"normalize": normalize, "item_filter": item_filter}
    scores = bench.scores(histories, **space)
    beams = bench.search(histories, 100, **space)
    offsets, rows = item_filter.core.leaf_rows(beams.nodes.numpy())
    found = beams.scores.flatten().repeat_interleave(torch.from_numpy(np.diff(offsets)))
    request = torch.arange(beams.nodes.numel()) // beams.nodes.shape[1]
    request = request.repeat_interleave(torch.from_numpy(np.diff(offsets)))
    torch.testing.assert_close(found, scores[request, torch.from_numpy(rows)])
    for i, left in enumerate(LEFT):
        assert sorted(rows[(request == i).numpy()].tolist()) == left.tolist()


def test_a_leaf_lives_while_one_of_its_items_does():
    sids = np.array([[1, 2, 3], [0, 0, 0], [1, 2, 3]], dtype=np.int32)
    trie = TrieArrays(ItemTrie(sids, [2, 3, 4]))
    item_filter = ItemFilter(trie, [None, None], [np.array([0]), np.array([0, 2])])
    nodes = torch.tensor([0, 1])
    for level in (1, 2, 3):
        first, second = (
            item_filter.is_alive(level, torch.full_like(nodes, request), nodes).tolist()
            for request in (0, 1)
        )
        assert first == [True, True]
        assert second == [True, False]
    assert item_filter.is_allowed().tolist() == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_nothing_allowed(backend):
    trie = TrieArrays(ItemTrie(np.array([[1], [0]], dtype=np.int32), [2]))
    item_filter = ItemFilter(trie, [None], [np.array([0, 1])])
    backend = resolve_backend(backend, torch.device("cpu"))
    space = SearchSpace(trie, item_filter)
    got = backend.beam_step(space, 0, torch.zeros(1, 1, 2), root_beams(1, "cpu"), 3)
    assert got.num_valid.tolist() == [0]
    assert got.nodes.tolist() == got.parents.tolist() == got.tokens.tolist() == [[-1] * 3]
    assert got.scores.tolist() == [[-np.inf] * 3]
