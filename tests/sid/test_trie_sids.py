import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie
from store_engine.sid.trie_sids import trie_holds


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_trie_holds_its_sids_and_no_others(data):
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 5, 300]), min_size=1, max_size=4))
    num_items, seed = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 1000))
    sids = np.random.default_rng(seed).integers(0, sizes, (num_items, len(sizes))).astype(np.int32)
    mode = data.draw(st.sampled_from(["fast", "compact"]))
    trie = ItemTrie(sids, sizes, mode=mode)
    assert trie_holds(trie, sids)
    row, level = (
        data.draw(st.integers(0, num_items - 1)),
        data.draw(st.sampled_from(range(len(sizes)))),
    )
    if sizes[level] > 1:
        sids[row, level] = (sids[row, level] + 1) % sizes[level]
        assert not trie_holds(trie, sids)


@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (3, 2), (3, 4)])
def test_other_numbers_of_items_or_levels(shape):
    trie = ItemTrie(np.zeros((3, 3), np.int32), [2, 2, 2])
    assert not trie_holds(trie, np.zeros(shape, np.int32))
