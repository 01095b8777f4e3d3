from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie, LiveTrie, next_codes

SIDS = np.array([[2, 0], [0, 1], [2, 3], [0, 0]], dtype=np.int32)
SIZES, TEXT = [3, 4], 20  # level 0 is tokens 20 to 22, level 1 tokens 23 to 26
TRIE = ItemTrie(SIDS, SIZES)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_by_hand(num_threads):
    sequences = np.array(
        [
            [5, 1],  # after text the first level
            [1, 22],
            [1, 20],
            [22, 26],  # after a whole SID the next item begins
            [26, 20],
            [1, 21],  # no item begins with code 1
            [9, 99],  # behind the last code: as text
            [-1, -1],
        ]
    )
    is_allowed, levels = next_codes(TRIE, sequences, TEXT, num_threads=num_threads)
    assert is_allowed.dtype == np.bool_
    found = [(np.flatnonzero(row) + TEXT).tolist() for row in is_allowed]
    first, after_0, after_2 = [20, 22], [23, 24], [23, 26]
    assert found == [first, after_2, after_0, first, after_0, [], first, first]
    assert levels.tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


def test_codes_that_do_not_follow_each_other_lead_nowhere():
    trie = ItemTrie(np.array([[1, 1, 1]], np.int32), [2, 2, 2])
    ends = np.array([[0, 3], [5, 3], [1, 3], [3, 3], [1, 2]])  # a_1 is 1, b_0 is 2, b_1 is 3
    is_allowed, levels = next_codes(trie, ends, 0)
    assert levels.tolist() == [2] * 5
    assert [np.flatnonzero(row).tolist() for row in is_allowed] == [[], [], [5], [], []]
    # too short to tell which SID it is in
    is_allowed, levels = next_codes(trie, ends[:, 1:].copy(), 0)
    assert levels.tolist() == [2] * 5
    assert not is_allowed.any()


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (0, 0)])
def test_of_nothing(shape):
    is_allowed, levels = next_codes(TRIE, np.zeros(shape, np.int64), TEXT)
    assert is_allowed.shape == (shape[0], 7)
    assert (is_allowed == [True, False, True, *[False] * 4]).all()
    assert levels.tolist() == [0] * shape[0]


def test_of_an_empty_catalogue():
    trie = ItemTrie(np.zeros((0, 2), np.int32), SIZES)
    assert not next_codes(trie, np.array([[1, 1], [1, 20]]), TEXT)[0].any()


def oracle(sequence, sids, sizes, text):
    """The unified ids that may follow, from all SIDs as tuples."""
    begins = text + np.cumsum([0, *sizes])
    level = 0
    for i, (begin, end) in enumerate(pairwise(begins)):
        if begin <= sequence[-1] < end:
            level = (i + 1) % len(sizes)
    prefix = tuple(token - begin for token, begin in zip(sequence[-level:], begins, strict=False))
    prefix = prefix if level else ()
    return level, {int(begins[level]) + sid[level] for sid in sids if sid[:level] == prefix}


def assert_equals_the_oracle(trie, sids, sizes, rng):
    text, width = int(rng.integers(0, 5)), len(sizes) + int(rng.integers(-1, 3))
    ends = rng.integers(-1, text + sum(sizes) + 2, (40, width))
    begins = text + np.cumsum([0, *sizes[:-1]])
    for row in range(30 if sids else 0):  # mostly what items begin with
        depth = int(rng.integers(0, min(len(sizes), width) + 1))
        sid = sids[rng.integers(len(sids))]
        if depth:
            ends[row, -depth:] = (begins + sid)[:depth]
    is_allowed, levels = next_codes(trie, ends, text)
    for i, end in enumerate(ends.tolist() if width else []):
        level, tokens = oracle(end, sids, sizes, text)
        assert levels[i] == level
        assert set((np.flatnonzero(is_allowed[i]) + text).tolist()) == tokens


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 17, 300]), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    num_items=st.integers(0, 40),
    changes=st.lists(
        st.tuples(st.sampled_from(["add", "add", "remove", "compact"]), st.integers(0, 20)),
        max_size=6,
    ),
    mode=st.sampled_from(["fast", "compact"]),
)
def test_of_any_history_equals_the_oracle(sizes, seed, num_items, changes, mode):
    rng = np.random.default_rng(seed)

    def draw(number):
        return rng.integers(0, np.minimum(sizes, 4), (number, len(sizes)), np.int32)

    sids = draw(num_items)
    assert_equals_the_oracle(
        ItemTrie(sids, sizes, mode=mode), list(map(tuple, sids.tolist())), sizes, rng
    )
    live = LiveTrie(sids, np.arange(num_items), sizes, mode=mode, max_changes=10_000)
    items = dict(enumerate(map(tuple, sids.tolist())))
    for kind, number in changes:
        if kind == "add":
            item_ids, sids = np.arange(num_items, num_items + number), draw(number)
            live.add(sids, item_ids)
            items.update(zip(item_ids.tolist(), map(tuple, sids.tolist()), strict=True))
            num_items += number
        elif kind == "remove":
            gone = rng.permutation(np.array(sorted(items), dtype=np.int64))[:number]
            live.remove(gone)
            for item_id in gone.tolist():
                del items[item_id]
        else:
            live.compact()
        assert_equals_the_oracle(live.snapshot(), list(items.values()), sizes, rng)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"trie": None}, TypeError, "trie must be an ItemTrie or a Snapshot"),
        ({"tokens": np.zeros(3, np.int64)}, ValueError, r"tokens must be 2-D \(batch, width\)"),
        ({"tokens": np.zeros((1, 3), np.int32)}, TypeError, "incompatible"),
        ({"tokens": np.zeros((2**21, 0), np.int64)}, ValueError, r"batch must be in \[0, 1048576"),
        ({"first_code": -1}, ValueError, r"first_code must be in \[0, "),
        ({"first_code": 2**62}, ValueError, r"first_code must be in \[0, "),
        ({"first_code": 1.0}, TypeError, "incompatible"),
        ({"num_threads": 0}, ValueError, "num_threads must be in"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rejects(change, error, message):
    arguments = {"trie": TRIE, "tokens": np.zeros((1, 3), np.int64), "first_code": TEXT, **change}
    with pytest.raises(error, match=message):
        next_codes(**arguments)


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1])
def test_any_number_may_be_a_token(value):
    is_allowed, levels = next_codes(TRIE, np.array([[value, 20], [20, value]]), 2**40)
    assert levels.tolist() == [0, 0]
    assert is_allowed.sum() == 4
