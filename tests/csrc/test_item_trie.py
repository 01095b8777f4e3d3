import gc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemTrie

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
SIZES = [4, 3]


@st.composite
def catalogues(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 5, 256, 257, 65536]), min_size=1, max_size=4))
    sid = st.tuples(*[st.integers(max(0, size - 4), size - 1) for size in sizes])
    sids = draw(st.lists(sid, max_size=40))
    if draw(st.booleans()):
        sids.sort()
    return np.array(sids, dtype=np.int32).reshape(len(sids), len(sizes)), sizes


def test_layout():
    trie = ItemTrie(SIDS, SIZES)
    assert (trie.num_items, trie.num_levels) == (4, 2)
    assert (trie.codebook_sizes, trie.level_sizes) == ((4, 3), (2, 3))
    assert [array.tolist() for array in trie.level(0)] == [[0, 2], [0, 3]]
    assert [array.tolist() for array in trie.level(1)] == [[0, 2, 3], [1, 2, 1]]
    offsets, rows = trie.leaf_rows(np.array([2, -1, 0], dtype=np.int64))
    assert (offsets.tolist(), rows.tolist()) == ([0, 2, 2, 3], [0, 3, 2])


def groups(trie):
    """The catalogue rows under each leaf."""
    offsets, rows = trie.leaf_rows(np.arange(trie.level_sizes[-1], dtype=np.int64))
    return [rows[a:b].tolist() for a, b in pairwise(offsets)]


@settings(deadline=None)
@given(catalogues(), st.sampled_from(["fast", "compact"]), st.integers(1, 9))
def test_equals_a_dictionary(catalogue, mode, num_threads):
    sids, sizes = catalogue
    trie = ItemTrie(sids, sizes, mode=mode, num_threads=num_threads)
    rows_of = {}
    for row, sid in enumerate(map(tuple, sids.tolist())):
        rows_of.setdefault(sid, []).append(row)
    prefixes = [()]
    for level in range(len(sizes)):
        child_begin, tokens = trie.level(level)
        assert child_begin[-1] == len(tokens) == trie.level_sizes[level]
        prefixes = [
            (*prefix, int(token))
            for node, prefix in enumerate(prefixes)
            for token in tokens[child_begin[node] : child_begin[node + 1]]
        ]
        assert prefixes == sorted({sid[: level + 1] for sid in rows_of})
    assert groups(trie) == [rows_of[sid] for sid in prefixes]


@pytest.mark.parametrize("num_threads", [1, 2, 7])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("spread", [2, 40, 250], ids=["dense", "medium", "sparse"])
def test_compact_equals_fast(spread, is_sorted, num_threads):
    sids = np.random.default_rng(0).integers(0, spread, (20_000, 3), dtype=np.int32)
    if is_sorted:
        sids = sids[np.lexsort(sids.T[::-1])].copy()
    fast = ItemTrie(sids, [250] * 3)
    compact = ItemTrie(sids, [250] * 3, mode="compact", num_threads=num_threads)
    for level in range(3):
        for a, b in zip(fast.level(level), compact.level(level), strict=True):
            assert a.tolist() == b.tolist()
    assert groups(fast) == groups(compact)
    assert compact.nbytes <= fast.nbytes


def test_memory():
    """A million sorted items would take 2.6 bytes each; the shares are those of 50,000."""
    sids = np.random.default_rng(0).integers(0, 60, (50_000, 4), dtype=np.int32)
    sids = sids[np.lexsort(sids.T[::-1])].copy()
    fast = ItemTrie(sids, [60] * 4)
    compact = ItemTrie(sids, [60] * 4, mode="compact")
    for trie in (fast, compact):
        assert sum(trie.memory().values()) == trie.nbytes
        assert trie.memory()["rows"] == 0
    assert fast.nbytes <= 7 * len(sids)
    assert compact.nbytes <= 3 * len(sids)
    assert ItemTrie(sids[::-1].copy(), [60] * 4).memory()["rows"] == 4 * len(sids)


@pytest.mark.parametrize(("size", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_tokens_are_as_narrow_as_the_codebook(size, dtype):
    sids = np.array([[size - 1]], dtype=np.int32)
    tokens = ItemTrie(sids, [size]).level(0)[1]
    assert tokens.dtype == dtype
    assert tokens.tolist() == [size - 1]


def test_views_outlive_the_trie_and_are_read_only():
    tokens = ItemTrie(SIDS, SIZES).level(1)[1]
    gc.collect()
    assert tokens.tolist() == [1, 2, 1]
    assert not tokens.flags.writeable


@pytest.mark.parametrize(
    ("sids", "sizes", "error", "message"),
    [
        (SIDS.astype(np.int64), SIZES, TypeError, "incompatible"),
        (SIDS.T, SIZES, TypeError, "incompatible"),
        (SIDS[0], SIZES, ValueError, "2-D"),
        (SIDS, [4], ValueError, "sids have 2 levels, codebook_sizes 1"),
        (SIDS, [4, 2], ValueError, r"sids row 1, level 1: code 2 is outside \[0, 2\)"),
        (-SIDS, SIZES, ValueError, "sids row 0, level 0: code -3"),
        (SIDS, [4, 0], ValueError, r"codebook_sizes\[1\]"),
        (SIDS, [4, 65537], ValueError, r"codebook_sizes\[1\]"),
        (np.zeros((3, 0), np.int32), [], ValueError, "num_levels"),
        (np.zeros((3, 17), np.int32), [1] * 17, ValueError, "num_levels"),
    ],
    ids=["dtype", "strides", "ndim", "levels", "high", "negative", "k0", "k-big", "L0", "L17"],
)
def test_rejects_sids(sids, sizes, error, message):
    with pytest.raises(error, match=message):
        ItemTrie(sids, sizes)


@pytest.mark.parametrize("options", [{"mode": "small"}, {"num_threads": 0}, {"num_threads": 1025}])
def test_rejects_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ItemTrie(SIDS, SIZES, **options)


@pytest.mark.parametrize("level", [-1, 2, 2**40])
def test_rejects_levels(level):
    with pytest.raises(ValueError, match=r"level must be in \[0, 2\)"):
        ItemTrie(SIDS, SIZES).level(level)


@pytest.mark.parametrize("leaf", [-2, 3, 2**40])
def test_rejects_leaves(leaf):
    with pytest.raises(ValueError, match=r"leaves\[1\]"):
        ItemTrie(SIDS, SIZES).leaf_rows(np.array([0, leaf], dtype=np.int64))
