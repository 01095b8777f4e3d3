import numpy as np
import pytest
import torch

from store_engine._C import ItemTrie, RowSet
from store_engine.catalog.resident.resident_sets import ResidentSets
from store_engine.kernels.trie_topk import pack_items, word_ranks

NUM_ITEMS = 70
SIDS = np.arange(NUM_ITEMS, dtype=np.int32)[::-1, None].copy()  # the last row stands first
PLACES = np.arange(NUM_ITEMS, dtype=np.int32)[::-1].copy()


@pytest.fixture
def sets():
    resident = ResidentSets(torch.device("cpu"))
    resident.resize(NUM_ITEMS)
    resident.clear(PLACES)
    return resident


@pytest.fixture
def make_set():
    trie = ItemTrie(SIDS, [NUM_ITEMS])
    return lambda *rows: RowSet.from_rows(trie, np.array(rows, dtype=np.int64))


def test_a_set_is_bits_by_place_and_their_ranks(sets, make_set):
    at = sets.index([one := make_set(0, 1, 69)])[one]
    is_in = torch.zeros(1, 32 * sets.words.shape[1] - 32, dtype=torch.bool)
    is_in[0, [69, 68, 0]] = True
    assert torch.equal(sets.words[at], pack_items(is_in)[0])
    assert torch.equal(sets.ranks[at], word_ranks(pack_items(is_in))[0])


def test_the_set_that_was_not_used_for_the_longest_time_goes(sets, make_set):
    eight = [make_set(row) for row in range(8)]
    first = sets.index(eight)
    assert sorted(first.values()) == list(range(8))
    sets.index(eight[:1])  # used again
    new = make_set(9)
    assert sets.index([new])[new] == first[eight[1]]
    assert sets.index(eight[:1]) == {eight[0]: first[eight[0]]}


@pytest.mark.parametrize(("num", "want"), [(8, 8), (9, 16), (70, 70)])
def test_room_for_the_sets_of_a_batch(sets, num, want):
    assert sets.make_room(num) == (num > 8)
    assert len(sets.words) == want


def test_excluded_places_are_those_of_the_set_once_in_order(sets, make_set):
    at = sets.index([one := make_set(0, 1, 69)])[one]
    rows = np.array([1, 1, 5, 0], dtype=np.int64)
    assert sets.places(rows, at).tolist() == [68, 69]
    assert sets.places(rows, -1).tolist() == [64, 68, 69]


def test_room_grows_with_the_items(sets):
    room = 32 * sets.words.shape[1]
    assert sets.fits(room - 1)
    assert not sets.fits(room)
    sets.resize(room)
    assert sets.fits(room)
