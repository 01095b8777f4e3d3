"""rank_items against every item scored by NumPy, in float32 and in the same order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemFilter, ItemTrie, LiveTrie, RowSet, rank_items


def brute_force(sids, logprobs, k, kept, keys):
    """(keys, scores) of the k best of the kept items, of equals the lower SID, then key."""
    scores = np.zeros(len(sids), np.float32)
    for level, of_level in enumerate(logprobs):
        scores = scores + of_level[sids[:, level]]
    order = np.lexsort((keys, *sids.T[::-1], -scores))
    order = [i for i in order if kept[i] and scores[i] > -np.inf][:k]
    missing = k - len(order)
    return [*keys[order].tolist(), *[-1] * missing], [*scores[order], *[-np.inf] * missing]


@st.composite
def catalogues(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 17, 300]), min_size=1, max_size=9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_items = draw(st.sampled_from([0, 1, 20, 400]))
    sids = rng.integers(0, sizes, (num_items, len(sizes)), np.int32)
    kind = draw(st.sampled_from(["flat", "peaked", "ties"]))
    logprobs = []
    for size in sizes:
        x = rng.normal(0, 0.1 if kind == "flat" else 3, (3, size))
        x = np.round(x / 3) if kind == "ties" else x
        x[rng.random((3, size)) < 0.1] = -np.inf
        logprobs.append(x.astype(np.float32))
    return sids, sizes, logprobs, rng


@settings(deadline=None, max_examples=200)
@given(
    catalogue=catalogues(),
    k=st.sampled_from([1, 7, 50, 1000]),
    share=st.sampled_from([None, 0.0, 0.3]),
    mode=st.sampled_from(["fast", "compact"]),
)
def test_equals_all_items_scored(catalogue, k, share, mode):
    sids, sizes, logprobs, rng = catalogue
    trie = ItemTrie(sids, sizes, mode=mode)
    every = np.arange(len(sids))
    kept = np.ones((3, len(sids)), bool)
    item_filter = None
    if share is not None and len(sids):
        kept &= rng.random(len(sids)) < share
        allow = RowSet.from_rows(trie, np.flatnonzero(kept[0]))
        excluded = rng.choice(every, (3, 5))
        np.put_along_axis(kept, excluded, False, axis=1)
        item_filter = ItemFilter(
            trie, 3, allow=allow, exclude=(np.arange(0, 16, 5), excluded.reshape(-1))
        )
    rows, scores = rank_items(trie, logprobs, k, item_filter=item_filter)
    for i in range(3):
        want = brute_force(sids, [x[i] for x in logprobs], k, kept[i], every)
        assert (rows[i].tolist(), scores[i].tolist()) == want
    again = rank_items(trie, logprobs, k, item_filter=item_filter, num_threads=2)
    assert again[0].tobytes() == rows.tobytes()
    assert again[1].tobytes() == scores.tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_equals_all_items_of_a_live_catalogue(seed):
    rng = np.random.default_rng(seed)
    sids = rng.integers(0, [6, 5, 7], (300, 3), np.int32)
    live = LiveTrie(sids[:200].copy(), np.arange(200), [6, 5, 7])
    live.add(sids[200:].copy(), np.arange(200, 300))
    removed = rng.choice(300, 90, replace=False)
    live.remove(removed)
    snapshot = live.snapshot()
    kept = np.ones((2, 300), bool)
    kept[:, removed] = False
    logprobs = [rng.normal(0, 2, (2, size)).astype(np.float32) for size in (6, 5, 7)]
    item_filter = None
    if seed % 2:
        excluded = np.flatnonzero(kept[0])[::4].copy()
        kept[1, excluded] = False
        exclude = np.array([0, 0, len(excluded)]), snapshot.rows_of(excluded)
        item_filter = ItemFilter(snapshot, 2, exclude=exclude)
    rows, scores = rank_items(snapshot, logprobs, 250, item_filter=item_filter)
    for i in range(2):
        found = rows[i] >= 0
        want = brute_force(sids, [x[i] for x in logprobs], 250, kept[i], np.arange(300))
        assert snapshot.item_ids(rows[i][found]).tolist() == want[0][: found.sum()]
        assert scores[i].tolist() == want[1]


TRIE = ItemTrie(np.array([[3, 1], [0, 2], [0, 1]], dtype=np.int32), [4, 3])
FIRST, SECOND = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32)


@pytest.mark.parametrize(
    ("logprobs", "k", "message"),
    [
        ([FIRST], 1, "an array for each of 2 levels, got 1"),
        ([FIRST, SECOND, SECOND], 1, "an array for each of 2 levels, got 3"),
        ([FIRST, FIRST], 1, r"level_logprobs\[1\] must have shape"),
        ([FIRST, np.zeros((2, 3), np.float32)], 1, r"level_logprobs\[1\] must have shape"),
        ([FIRST[0], SECOND[0]], 1, r"level_logprobs\[0\] must have shape"),
        ([FIRST, SECOND], 0, "k must be at least 1"),
        ([FIRST, SECOND], 2**40, "k must be in"),
        ([FIRST + np.nan, SECOND], 1, "request 0: level 0: log-probability NaN or"),
        ([FIRST, SECOND + np.inf], 1, "request 0: level 1: log-probability NaN or"),
    ],
)
def test_rejects(logprobs, k, message):
    with pytest.raises(ValueError, match=message):
        rank_items(TRIE, logprobs, k)


def test_rejects_a_filter_of_another_batch_or_trie():
    other = ItemTrie(np.zeros((1, 2), np.int32), [4, 3])
    for item_filter, message in [
        (ItemFilter(TRIE, 2), "batch of 2"),
        (ItemFilter(other, 1), "ano"),
    ]:
        with pytest.raises(ValueError, match=message):
            rank_items(TRIE, [FIRST, SECOND], 1, item_filter=item_filter)
