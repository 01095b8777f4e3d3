from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemFilter, ItemTrie, LiveTrie, RowSet, beam_step

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
IDS = np.array([70, 50, 60, -1], dtype=np.int64)
SIZES = [4, 3]


def sorted_items(items):
    """A dictionary of item id -> SID as arrays, by SID, then id."""
    pairs = sorted((sid, item_id) for item_id, sid in items.items())
    return [sid for sid, _ in pairs], [item_id for _, item_id in pairs]


def arrays_of(trie):
    """All arrays of a trie, as lists."""
    leaves = np.arange(trie.level_sizes[-1], dtype=np.int64)
    levels = [array.tolist() for level in range(trie.num_levels) for array in trie.level(level)]
    return [*levels, *(array.tolist() for array in trie.leaf_rows(leaves))]


def assert_compacted(snapshot, items):
    """The compacted trie is one that is built from the items by ascending id."""
    trie, item_ids = snapshot.compacted()
    assert item_ids.tolist() == sorted(items)
    sids = np.array([items[item_id] for item_id in sorted(items)], dtype=np.int32)
    fresh = ItemTrie(sids.reshape(-1, snapshot.num_levels), list(snapshot.codebook_sizes))
    assert trie.codebook_sizes == snapshot.codebook_sizes
    assert arrays_of(trie) == arrays_of(fresh)


@pytest.fixture(scope="module")
def assert_equals_a_fresh_trie(assert_searches_as_fresh_tries):
    def check(snapshot, items, rng, has_filter=True):
        """The snapshot holds `items`, and is searched like a trie built from them."""
        sids, item_ids = (array.tolist() for array in snapshot.items())
        assert ([tuple(sid) for sid in sids], item_ids) == sorted_items(items)
        assert snapshot.num_items == len(items)
        known = np.array(sorted(items), dtype=np.int64)
        known_sids = np.array([items[item_id] for item_id in known.tolist()], dtype=np.int32)
        known_sids = known_sids.reshape(-1, snapshot.num_levels)
        rows = snapshot.rows_of(known)
        assert snapshot.item_ids(rows).tolist() == known.tolist()
        kept, item_filter = [np.full(len(known), True)] * 2, None
        if has_filter:
            is_allowed = rng.random(len(known)) < 0.5
            some = ~RowSet.from_rows(snapshot, rows[~is_allowed])
            assert some.count == is_allowed.sum()
            is_excluded = rng.random((2, len(known))) < 0.2
            excluded = [rows[is_gone] for is_gone in is_excluded]
            exclude = np.cumsum([0, *map(len, excluded)]), np.concatenate(excluded)
            item_filter = ItemFilter(snapshot, 2, allow=some, exclude=exclude)
            kept = list(is_allowed & ~is_excluded)
        catalogues = [(known[is_kept], known_sids[is_kept]) for is_kept in kept]
        assert_searches_as_fresh_tries(snapshot, item_filter, catalogues, rng, snapshot.item_ids)
        assert_compacted(snapshot, items)

    return check


@st.composite
def histories(draw):
    """A first catalogue and what happens to it."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 17, 300]), min_size=1, max_size=4))
    kinds = st.sampled_from(["add", "add", "remove", "move", "compact"])
    operations = draw(st.lists(st.tuples(kinds, st.integers(0, 30)), max_size=8))
    max_changes = draw(st.sampled_from([1, 5, 20, 10_000]))
    return sizes, draw(st.integers(0, 60)), operations, max_changes, draw(st.integers(0, 2**32))


@settings(deadline=None, max_examples=150)
@given(history=histories(), mode=st.sampled_from(["fast", "compact"]))
def test_any_history_equals_a_fresh_trie(assert_equals_a_fresh_trie, history, mode):
    sizes, num_items, operations, max_changes, seed = history
    rng = np.random.default_rng(seed)
    new_ids = map(int, rng.permutation(10_000))

    def draw(number):
        sids = rng.integers(0, sizes, (number, len(sizes)), np.int32)
        return sids, np.array([next(new_ids) for _ in range(number)], dtype=np.int64)

    def put(sids, item_ids):
        items.update(zip(item_ids.tolist(), map(tuple, sids.tolist()), strict=True))
        return sids, item_ids

    items = {}
    live = LiveTrie(*put(*draw(num_items)), sizes, mode=mode, max_changes=max_changes)
    held = []  # snapshots that later changes must leave alone
    for kind, number in operations:
        held.append((live.snapshot(), dict(items)))
        some = rng.permutation(np.array(sorted(items), dtype=np.int64))[:number]
        if kind == "add":
            live.add(*put(*draw(number)))
        elif kind == "compact":
            live.compact()
            assert live.snapshot().num_changes == 0
        else:
            live.remove(some)
            for item_id in some.tolist():
                del items[item_id]
            if kind == "move":  # the same item under another SID
                live.add(*put(draw(len(some))[0], some))
        assert_equals_a_fresh_trie(live.snapshot(), items, rng)
    for snapshot, then in held:
        assert_equals_a_fresh_trie(snapshot, then, rng, has_filter=False)
    live.compact()
    assert_equals_a_fresh_trie(live.snapshot(), items, rng)


def test_readers_see_all_of_a_change_or_nothing(assert_searches_as_fresh_tries):
    """Items come and go in pairs while others decode; merges happen all the time."""
    rng = np.random.default_rng(0)
    sizes = [7, 7, 7]
    sids = rng.integers(0, 7, (3000, 3), np.int32)
    live = LiveTrie(sids[:1000], np.arange(1000), sizes, max_changes=20)
    rounds = 150

    def write():
        for i in range(rounds):
            new = np.array([1000 + i, 2000 + i])
            live.add(sids[new], new)
            if i % 3 == 2:
                live.remove(np.array([1000 + i - 1, 2000 + i - 1]))

    def read():
        for i in count():
            snapshot = live.snapshot()
            there = snapshot.rows_of(np.arange(1000, 3000)) >= 0
            assert (there[:1000] == there[1000:]).all()
            if i % 8 == 0:
                catalogue = snapshot.items()[::-1]
                assert_searches_as_fresh_tries(
                    snapshot, None, [catalogue], np.random.default_rng(i), snapshot.item_ids
                )
            if is_done.done():
                return

    with ThreadPoolExecutor(4) as pool:
        is_done = pool.submit(write)
        for reader in [pool.submit(read) for _ in range(3)]:
            reader.result()
        is_done.result()
    live.compact()
    removed = [1000 + i - 1 for i in range(2, rounds, 3)]
    added = set(range(1000, 1000 + rounds)) - set(removed)
    want = {*range(1000), *added, *(item_id + 1000 for item_id in added)}
    assert set(live.snapshot().items()[1].tolist()) == want


def test_the_order_of_additions_changes_nothing():
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 3, (300, 3), np.int32)
    whole = LiveTrie(sids, np.arange(300), [3] * 3)
    parts = LiveTrie(sids[:0], np.arange(0), [3] * 3)
    for some in np.array_split(rng.permutation(300), 7):
        parts.add(sids[some], some)
    for a, b in zip(whole.snapshot().items(), parts.snapshot().items(), strict=True):
        assert a.tolist() == b.tolist()
    leaves = np.arange(27)
    a, b = (trie.snapshot().leaf_rows(leaves) for trie in (whole, parts))
    assert a[0].tolist() == b[0].tolist()
    assert whole.snapshot().item_ids(a[1]).tolist() == parts.snapshot().item_ids(b[1]).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda live: live.add(SIDS[:2], np.array([1, 1])), "item id 1 is there twice"),
        (lambda live: live.add(SIDS[:2], np.array([1, 60])), "item id 60 is in the catalogue"),
        (lambda live: live.add(SIDS[:2] + 2, np.array([1, 2])), "sids row 0, level 0: code 5"),
        (lambda live: live.add(SIDS[:2], np.array([1])), "sids must have shape"),
        (lambda live: live.add(SIDS[:2, :1].copy(), np.array([1, 2])), "sids must have shape"),
        (lambda live: live.remove(np.array([60, 1])), "item id 1 is not in the catalogue"),
        (lambda live: live.remove(np.array([60, 60])), "item id 60 is there twice"),
        (lambda live: live.remove(np.array([[60]])), "item_ids must be 1-D"),
    ],
)
def test_a_refused_change_changes_nothing(change, message):
    live = LiveTrie(SIDS, IDS, SIZES)
    live.remove(np.array([50]))
    before = [array.tolist() for array in live.snapshot().items()]
    with pytest.raises(ValueError, match=message):
        change(live)
    assert [array.tolist() for array in live.snapshot().items()] == before


def test_rejects():
    with pytest.raises(ValueError, match="item id 7 is there twice"):
        LiveTrie(SIDS, np.full(4, 7), SIZES)
    with pytest.raises(ValueError, match="item_ids must have shape"):
        LiveTrie(SIDS, IDS[:3], SIZES)
    with pytest.raises(ValueError, match="max_changes"):
        LiveTrie(SIDS, IDS, SIZES, max_changes=0)
    with pytest.raises(TypeError, match="incompatible"):
        LiveTrie(SIDS, IDS.astype(np.int32), SIZES)
    live = LiveTrie(SIDS, IDS, SIZES)
    old = live.snapshot()
    with pytest.raises(ValueError, match=r"rows\[0\] = 4 is outside \[0, 4\)"):
        old.item_ids(np.array([4]))
    live.remove(np.array([60]))
    new = live.snapshot()
    assert new.rows_of(np.array([60, 50, 61])).tolist()[::2] == [-1, -1]
    with pytest.raises(ValueError, match="not in the catalogue of 3 items"):
        RowSet.from_rows(new, old.rows_of(np.array([60])))
    with pytest.raises(ValueError, match="request 0: allow is a set of another catalogue or snap"):
        ItemFilter(new, 1, allow=RowSet.from_rows(old, np.arange(1)))
    arrays = [np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32)]
    arrays += [np.zeros((1, 1), np.int64), np.ones(1, np.int64)]
    with pytest.raises(ValueError, match="item_filter is of another catalogue or snapshot"):
        beam_step(new, 0, *arrays, 1, item_filter=ItemFilter(old, 1))


def test_snapshots_outlive_the_catalogue():
    live = LiveTrie(SIDS, IDS, SIZES)
    live.add(SIDS[:1], np.array([5]))
    snapshot = live.snapshot()
    del live
    assert snapshot.items()[1].tolist() == [60, 50, -1, 5, 70]
    assert snapshot.num_changes == 1
    assert snapshot.nbytes > 0


@pytest.mark.parametrize("num_changes", [0, 1])
def test_the_compacted_trie_is_made_once_and_outlives_its_snapshot(num_changes):
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 9, (5000, 3), np.int32)
    live = LiveTrie(sids, 7 * np.arange(5000), [9] * 3, max_changes=10**6)
    live.remove(7 * np.arange(num_changes))
    snapshot = live.snapshot()
    nbytes = snapshot.nbytes
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(snapshot.compacted) for _ in range(16)]
    tries = {call.result()[0] for call in calls}
    assert len(tries) == 1
    trie, item_ids = snapshot.compacted()
    assert trie in tries
    assert snapshot.nbytes == nbytes + trie.nbytes + item_ids.nbytes
    assert not item_ids.flags.writeable
    del live, snapshot, tries, calls
    assert item_ids.tolist() == (7 * np.arange(num_changes, 5000)).tolist()
    assert arrays_of(trie) == arrays_of(ItemTrie(sids[num_changes:].copy(), [9] * 3))


def test_the_compacted_trie_keeps_the_mode():
    sids = np.random.default_rng(0).integers(0, 60, (20_000, 4), np.int32)
    sizes = {
        mode: LiveTrie(sids, np.arange(len(sids)), [60] * 4, mode=mode)
        .snapshot()
        .compacted()[0]
        .memory()["children"]
        for mode in ("fast", "compact")
    }
    assert sizes["compact"] < sizes["fast"]
