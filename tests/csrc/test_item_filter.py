from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemFilter, ItemTrie, RowSet, beam_step

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
SIZES = [4, 3]
TRIE = ItemTrie(SIDS, SIZES)
NO_ROWS = np.zeros(0, np.int64)


def row_set(trie, rows):
    return RowSet.from_rows(trie, np.array(list(rows), dtype=np.int64))


def ragged(lists):
    """Lists of rows as (offsets, rows)."""
    rows = [row for one in lists for row in one]
    return np.cumsum([0, *map(len, lists)]), np.array(rows, dtype=np.int64)


@st.composite
def requests(draw):
    """A catalogue, and for each request of a batch what it allows and what it excludes."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 17, 300]), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_items = draw(st.integers(1, 200))
    sids = rng.integers(0, sizes, (num_items, len(sizes)), np.int32)
    if draw(st.booleans()):
        sids = sids[np.lexsort(sids.T[::-1])].copy()
    batch = draw(st.integers(1, 3))
    shares = st.lists(st.sampled_from([None, 0.0, 0.02, 0.3, 1.0]), min_size=batch, max_size=batch)
    every = np.arange(num_items)
    allowed = [
        None if share is None else every[rng.random(num_items) < share] for share in draw(shares)
    ]
    excluded = [rng.choice(every, draw(st.integers(0, 2 * num_items))) for _ in range(batch)]
    return sids, sizes, allowed, excluded, rng


@settings(deadline=None, max_examples=200)
@given(request=requests(), mode=st.sampled_from(["fast", "compact"]))
def test_equals_a_trie_of_the_allowed_items(assert_searches_as_fresh_tries, request, mode):
    sids, sizes, allowed, excluded, rng = request
    trie = ItemTrie(sids, sizes, mode=mode)
    allow = [None if rows is None else row_set(trie, rows) for rows in allowed]
    item_filter = ItemFilter(trie, len(allow), allow=allow, exclude=ragged(excluded))
    every = np.arange(len(sids))
    kept = [
        np.setdiff1d(every if rows is None else rows, gone)
        for rows, gone in zip(allowed, excluded, strict=True)
    ]
    assert item_filter.num_allowed.tolist() == [len(rows) for rows in kept]
    catalogues = [(rows, sids[rows]) for rows in kept]
    assert_searches_as_fresh_tries(trie, item_filter, catalogues, rng)


@given(st.lists(st.integers(0, 199)), st.lists(st.integers(0, 199)), st.booleans())
def test_sets_behave_as_sets(a, b, is_sorted):
    sids = np.random.default_rng(0).integers(0, 9, (200, 3), dtype=np.int32)
    if is_sorted:
        sids = sids[np.lexsort(sids.T[::-1])].copy()
    trie = ItemTrie(sids, [9] * 3)
    ours = row_set(trie, a), row_set(trie, b)
    for got, want in [
        (ours[0], set(a)),
        (ours[0] & ours[1], set(a) & set(b)),
        (ours[0] | ours[1], set(a) | set(b)),
        (~ours[0], set(range(200)) - set(a)),
        (~ours[0] & ours[1], set(b) - set(a)),
    ]:
        assert got.rows().tolist() == sorted(want)
        assert got.count == len(want)


@pytest.mark.parametrize("num_items", [0, 1, 63, 64, 65])
def test_a_complement_has_no_rows_beyond_the_catalogue(num_items):
    trie = ItemTrie(np.zeros((num_items, 1), np.int32), [1])
    everything = ~row_set(trie, [])
    assert everything.rows().tolist() == list(range(num_items))
    assert ItemFilter(trie, 1, allow=everything).num_allowed.tolist() == [num_items]


def test_memory_is_one_bit_per_item_and_node():
    trie = ItemTrie(np.random.default_rng(0).integers(0, 32, (50_000, 3), np.int32), [32] * 3)
    some = row_set(trie, range(0, 50_000, 2))
    assert some.nbytes <= 50_000 / 8 + 64
    ItemFilter(trie, 1, allow=some)
    assert some.nbytes <= (50_000 + sum(trie.level_sizes)) / 8 + 64
    assert trie.memory()["positions"] == 4 * 50_000
    assert sum(trie.memory().values()) == trie.nbytes


def test_one_set_serves_every_request_and_outlives_its_trie():
    trie = ItemTrie(SIDS, SIZES)
    item_filter = ItemFilter(trie, 3, allow=row_set(trie, [1]))
    leaves = np.array([[1, -1, 0]] * 3)
    assert [a.tolist() for a in item_filter.leaf_rows(leaves)] == [
        [0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
        [1, 1, 1],
    ]
    del trie
    assert item_filter.num_allowed.tolist() == [1, 1, 1]


def test_threads_may_share_a_set_from_its_first_use(assert_searches_as_fresh_tries):
    sids = np.random.default_rng(0).integers(0, 50, (20_000, 3), np.int32)
    trie = ItemTrie(sids, [50] * 3)
    allowed = np.arange(7, 20_000, 7)
    some = row_set(trie, allowed)

    def run(seed):
        item_filter = ItemFilter(trie, 2, allow=some, exclude=ragged([[7], [14, 14]]))
        catalogues = [(rows, sids[rows]) for rows in (allowed[1:], np.delete(allowed, 1))]
        rng = np.random.default_rng(seed)
        assert_searches_as_fresh_tries(trie, item_filter, catalogues, rng)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(16)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"allow": [None]}, ValueError, "allow must be one RowSet or 2, got 1"),
        ({"allow": row_set(ItemTrie(SIDS, SIZES), [0])}, ValueError, "another catalogue"),
        ({"allow": np.zeros(2, np.int64)}, TypeError, "allow must be a RowSet, None or a seq"),
        ({"allow": "ab"}, TypeError, "RowSet, None or a sequence of these, got str"),
        ({"allow": [None, 5]}, TypeError, "RowSet, None or a sequence of these, got int"),
        ({"batch": 2**40}, ValueError, r"batch must be in \[0, 1048576\]"),
        ({"exclude": (np.zeros(2, np.int64), NO_ROWS)}, ValueError, r"\(batch \+ 1,\)"),
        ({"exclude": (np.array([0, 2, 1]), NO_ROWS)}, ValueError, "must rise"),
        ({"exclude": (np.array([0, 2, 1]), NO_ROWS + 1)}, ValueError, "must rise"),
        ({"exclude": (np.array([0, -1, 0]), NO_ROWS)}, ValueError, "must rise"),
        ({"exclude": ragged([[], [1, 4]])}, ValueError, "request 1: excluded row 4 is outside"),
        ({"exclude": ragged([[-1], []])}, ValueError, "request 0: excluded row -1 is outside"),
        ({"exclude": (np.zeros(3), NO_ROWS)}, TypeError, "incompatible"),
        ({"batch": -1}, ValueError, "batch"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        ItemFilter(TRIE, **{"batch": 2, **arguments})


def test_rejects_rows_and_strange_tries():
    other = ItemTrie(SIDS, SIZES)
    with pytest.raises(ValueError, match=r"rows\[1\] = 4 is not in the catalogue of 4 items"):
        row_set(TRIE, [0, 4])
    with pytest.raises(ValueError, match="different catalogues"):
        row_set(TRIE, [0]) & row_set(other, [0])
    with pytest.raises(ValueError, match="leaves must have shape"):
        ItemFilter(TRIE, 2).leaf_rows(np.zeros((1, 1), np.int64))
    arrays = [np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32)]
    arrays += [np.zeros((1, 1), np.int64), np.ones(1, np.int64)]
    for item_filter, message in [(ItemFilter(other, 1), "another"), (ItemFilter(TRIE, 2), "batch")]:
        with pytest.raises(ValueError, match=message):
            beam_step(TRIE, 0, *arrays, 1, item_filter=item_filter)
