import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import ItemFilter, ItemTrie, LiveTrie, RowSet, unique_leaves

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
SIZES = [4, 3]
TRIE = ItemTrie(SIDS, SIZES)


def leaf_below(node, level, known, given_sids):
    """The oracle: the only SID of `given_sids` below a node, as leaf and last code.

    known: all SIDs that are in the trie, also of items that were removed.
    """
    prefixes, leaves = sorted({sid[:level] for sid in known} or {()}), sorted(set(known))
    below = {sid for sid in given_sids if node >= 0 and sid[:level] == prefixes[node]}
    if len(below) != 1:
        return -1, -1
    (sid,) = below
    return leaves.index(sid), sid[-1]


def random_filter(rng, trie, rows):
    """A filter of three requests, and per request which of `rows` it may be given."""
    shares = rng.choice([0.0, 0.1, 0.6, 1.0], 3)
    allowed = [rng.random(len(rows)) < share for share in shares]
    excluded = [rng.random(len(rows)) < share for share in rng.choice([0.0, 0.3, 0.9], 3)]
    sets = [RowSet.from_rows(trie, rows[is_allowed]) for is_allowed in allowed]
    if rng.integers(2):
        allowed[1], sets[1] = np.full(len(rows), True), None
    offsets = np.cumsum([0, *(is_gone.sum() for is_gone in excluded)])
    exclude = offsets, np.concatenate([rows[is_gone] for is_gone in excluded])
    kept = [a & ~b for a, b in zip(allowed, excluded, strict=True)]
    return ItemFilter(trie, 3, allow=sets, exclude=exclude), kept


def assert_equals_the_oracle(trie, known, sids, rows, rng):
    """For all nodes of every depth, without a filter and with one.

    Args:
        trie: Of these items.
        known: Their SIDs, and those of removed items that still have nodes.
        sids: Of the items that are there.
        rows: Of the same.
        rng: Draws the filter.
    """
    everything = np.full(len(sids), True)
    for item_filter, kept in [(None, [everything]), random_filter(rng, trie, rows)]:
        given_sids = [[sids[i] for i in np.flatnonzero(is_kept)] for is_kept in kept]
        for level, num_nodes in enumerate((1, *trie.level_sizes[:-1])):
            nodes = np.tile(rng.permutation(np.arange(-1, num_nodes)), (len(kept), 1))
            leaves, tokens = unique_leaves(trie, level, nodes, item_filter=item_filter)
            got = [list(zip(*pair, strict=True)) for pair in zip(leaves, tokens, strict=True)]
            assert got == [
                [leaf_below(node, level, known, some) for node in nodes[0].tolist()]
                for some in given_sids
            ]


@st.composite
def catalogues(draw):
    """Sizes, a source of random numbers and how many items there are at first."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 17, 300]), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return sizes, rng, draw(st.integers(0, 40))


def random_sids(rng, num_items, sizes):
    """With codes that come together, so that there are shared SIDs and lone chains."""
    few = rng.integers(0, sizes, (max(1, num_items // 2), len(sizes)), np.int32)
    is_few = rng.random(num_items) < 0.4
    sids = rng.integers(0, sizes, (num_items, len(sizes)), np.int32)
    sids[is_few] = few[rng.integers(0, len(few), is_few.sum())]
    return sids


def tuples(sids):
    return list(map(tuple, sids.tolist()))


@settings(deadline=None, max_examples=150)
@given(catalogue=catalogues(), mode=st.sampled_from(["fast", "compact"]))
def test_of_a_trie_equals_the_oracle(catalogue, mode):
    sizes, rng, num_items = catalogue
    sids = random_sids(rng, num_items, sizes)
    trie = ItemTrie(sids, sizes, mode=mode)
    assert_equals_the_oracle(trie, tuples(sids), tuples(sids), np.arange(num_items), rng)


@settings(deadline=None, max_examples=150)
@given(
    catalogue=catalogues(),
    changes=st.lists(
        st.tuples(st.sampled_from(["add", "add", "remove", "compact"]), st.integers(0, 20)),
        max_size=6,
    ),
    mode=st.sampled_from(["fast", "compact"]),
)
def test_of_any_history_equals_the_oracle(catalogue, changes, mode):
    sizes, rng, num_items = catalogue
    sids = random_sids(rng, num_items, sizes)
    live = LiveTrie(sids, np.arange(num_items), sizes, mode=mode, max_changes=10_000)
    items = dict(enumerate(tuples(sids)))  # id -> SID
    in_base = set(items.values())
    for kind, number in changes:
        if kind == "add":
            item_ids = np.arange(num_items, num_items + number)
            sids = random_sids(rng, number, sizes)
            live.add(sids, item_ids)
            items.update(zip(item_ids.tolist(), tuples(sids), strict=True))
            num_items += number
        elif kind == "remove":
            gone = rng.permutation(np.array(sorted(items), dtype=np.int64))[:number]
            live.remove(gone)
            for item_id in gone.tolist():
                del items[item_id]
        else:
            live.compact()
            in_base = set(items.values())
        snapshot, known = live.snapshot(), in_base | set(items.values())
        assert snapshot.level_sizes == tuple(
            len({sid[:depth] for sid in known}) for depth in range(1, len(sizes) + 1)
        )
        rows = snapshot.rows_of(np.array(list(items), dtype=np.int64))
        assert_equals_the_oracle(snapshot, known, list(items.values()), rows, rng)


def test_items_that_share_a_sid_are_one_leaf():
    leaves, tokens = unique_leaves(TRIE, 1, np.array([[1, 0, -1]]))
    assert (leaves.tolist(), tokens.tolist()) == ([[2, -1, -1]], [[1, -1, -1]])
    item_filter = ItemFilter(TRIE, 2, exclude=(np.array([0, 2, 4]), np.array([0, 2, 0, 3])))
    leaves, tokens = unique_leaves(TRIE, 1, np.array([[0, 1]] * 2), item_filter=item_filter)
    assert (leaves.tolist(), tokens.tolist()) == ([[1, 2], [-1, -1]], [[2, 1], [-1, -1]])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_none_of_none(shape):
    leaves, tokens = unique_leaves(TRIE, 0, np.zeros(shape, np.int64))
    assert leaves.shape == tokens.shape == shape


OLD = LiveTrie(SIDS, np.arange(4), SIZES)
OLD_SNAPSHOT = OLD.snapshot()
OLD.remove(np.array([1]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"trie": None}, TypeError, "trie must be an ItemTrie or a Snapshot"),
        ({"trie": SIDS}, TypeError, "trie must be an ItemTrie or a Snapshot, got ndarray"),
        ({"level": 2}, ValueError, r"level must be in \[0, 2\), got 2"),
        ({"level": -1}, ValueError, r"level must be in \[0, 2\), got -1"),
        ({"nodes": np.zeros(3, np.int64)}, ValueError, r"nodes must be 2-D \(batch, width\)"),
        ({"nodes": np.zeros((1, 1, 1), np.int64)}, ValueError, "nodes must be 2-D"),
        ({"nodes": np.zeros((1, 3), np.int32)}, TypeError, "incompatible"),
        ({"nodes": np.zeros((1, 3))}, TypeError, "incompatible"),
        ({"nodes": np.zeros((1, 6), np.int64)[:, ::2]}, TypeError, "incompatible"),
        (
            {"nodes": np.array([[0, 0], [-1, 2]])},
            ValueError,
            r"request 1: beam 1: node 2 is neither -1 nor in \[0, 2\)",
        ),
        ({"nodes": np.array([[-2]])}, ValueError, "request 0: beam 0: node -2 is neither"),
        ({"nodes": np.array([[2**62]])}, ValueError, "is neither -1 nor in"),
        ({"item_filter": ItemFilter(TRIE, 2)}, ValueError, "is for a batch of 2, got 1"),
        ({"item_filter": ItemFilter(ItemTrie(SIDS, SIZES), 1)}, ValueError, "of another catalogue"),
        (
            {"trie": OLD.snapshot(), "item_filter": ItemFilter(OLD_SNAPSHOT, 1)},
            ValueError,
            "of another catalogue or snapshot",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rejects(change, error, message):
    arguments = {"trie": TRIE, "level": 1, "nodes": np.zeros((1, 3), np.int64), **change}
    with pytest.raises(error, match=message):
        unique_leaves(**arguments)
