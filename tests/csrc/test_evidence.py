"""Evidence against a plain loop: sums, order, filters, unknown rows, hostile matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine._C import Evidence, ItemFilter, ItemTrie, LiveTrie, RowSet

INDPTR, INDICES, DATA = np.array([0, 1, 3]), np.array([1, 0, 1], np.int32), np.ones(3, np.float32)


def ragged(lists):
    """Lists of rows as (rows, offsets)."""
    rows = [row for one in lists for row in one]
    return np.array(rows, dtype=np.int64), np.cumsum([0, *map(len, lists)])


def random_matrix(rng, num_items, max_row, values=None):
    lengths = rng.integers(0, min(max_row, num_items) + 1, num_items)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    columns = [rng.choice(num_items, n, replace=False) for n in lengths]
    indices = np.concatenate([*columns, np.zeros(0)]).astype(np.int32)
    if values is None:
        data = rng.normal(size=len(indices)).astype(np.float32)
    else:
        data = rng.choice(np.array(values, np.float32), len(indices))
    return indptr, indices, data


def reference(matrix, history, decay, num_recent):
    """Sums by item in float32, in the order of the events."""
    indptr, indices, data = matrix
    sums, weight = {}, np.float32(1)
    for row in history[::-1][:num_recent]:
        if 0 <= row < len(indptr) - 1:
            for i in range(indptr[row], indptr[row + 1]):
                before = sums.get(int(indices[i]), np.float32(0))
                sums[int(indices[i])] = before + weight * data[i]
        weight = weight * np.float32(decay)
    return sums


def best(sums, k, is_allowed=lambda item: True):
    """(rows, scores), of equals the lower row first."""
    order = sorted((-score, item) for item, score in sums.items() if is_allowed(item))[:k]
    rows = [item for _, item in order] + [-1] * (k - len(order))
    return rows, [-score for score, _ in order] + [-np.inf] * (k - len(order))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_items=st.sampled_from([1, 2, 63, 300, 3000]),
    has_ties=st.booleans(),
    num_recent=st.sampled_from([1, 3, 20, 2**62]),
    k=st.sampled_from([1, 10, 500]),
)
def test_equals_a_plain_loop(seed, num_items, has_ties, num_recent, k):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, num_items, 12, [0.5, 1, -1] if has_ties else None)
    histories = [rng.integers(-1, num_items + 3, rng.integers(0, 30)) for _ in range(5)]
    evidence, (rows, offsets) = Evidence(*matrix), ragged(histories)
    sids = rng.integers(0, 9, (num_items, 2), np.int32)
    trie = ItemTrie(sids, [9, 9])
    allowed = np.flatnonzero(rng.random(num_items) < 0.8)
    excluded, begins = ragged([h[(h >= 0) & (h < num_items)] for h in histories])
    allow = RowSet.from_rows(trie, allowed) if seed % 2 else None
    item_filter = ItemFilter(trie, 5, allow=allow, exclude=(begins, excluded))
    asked = rng.integers(-1, num_items + 2, (5, 9))
    top = evidence.top(rows, offsets, 0.7, num_recent, k)
    fewer = evidence.top(rows, offsets, 0.7, num_recent, k, item_filter=item_filter)
    scores = evidence.score(rows, offsets, 0.7, num_recent, asked)
    few = evidence.score(rows, offsets, 0.7, num_recent, asked[:, :1].copy())
    for i, history in enumerate(histories):
        sums = reference(matrix, history, 0.7, num_recent)
        assert (top[0][i].tolist(), top[1][i].tolist()) == best(sums, k)

        def may(item, own=history):
            return item not in own and (allow is None or item in allowed)

        assert (fewer[0][i].tolist(), fewer[1][i].tolist()) == best(sums, k, may)
        assert few[i].tolist() == [sums.get(int(item), 0) for item in asked[i, :1]]
        assert scores[i].tolist() == [sums.get(int(item), 0) for item in asked[i]]
        alone = evidence.top(*ragged([history]), 0.7, num_recent, k)
        assert alone[1].tobytes() == top[1][i : i + 1].tobytes()
    again = evidence.top(rows, offsets, 0.7, num_recent, k, num_threads=3)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(again, top, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_items=st.sampled_from([1, 2, 63, 300, 3000]),
    num_terms=st.sampled_from([1, 2, 7, 64]),
    num_recent=st.sampled_from([1, 3, 20, 2**62]),
    width=st.sampled_from([0, 1, 9, 200]),
)
def test_sums_of_terms_are_those_of_each_alone(seed, num_items, num_terms, num_recent, width):
    rng = np.random.default_rng(seed)
    indptr, indices, data = random_matrix(rng, num_items, 12)
    histories = [rng.integers(-1, num_items + 3, rng.integers(0, 30)) for _ in range(5)]
    rows, offsets = ragged(histories)
    votes = np.abs(rng.normal(size=(len(indices), num_terms)) * 10.0 ** rng.integers(-8, 4))
    halfs = votes.astype(np.float16)  # of all kinds: zero, too small to be normal, large
    decays = rng.random(num_terms).astype(np.float32)
    asked = rng.integers(-2, num_items + 2, (5, width))  # often an item twice
    given_terms = num_recent, asked, halfs.view(np.uint16), decays
    evidence = Evidence(indptr, indices, data)
    sums = evidence.sum_terms(rows, offsets, *given_terms)
    assert sums.shape == (5, width, num_terms)
    for term in range(num_terms):
        of_term = Evidence(indptr, indices, halfs[:, term].astype(np.float32))
        want = of_term.score(rows, offsets, float(decays[term]), num_recent, asked)
        assert np.array_equal(sums[..., term], want)
    again = evidence.sum_terms(rows, offsets, *given_terms, num_threads=3)
    assert again.tobytes() == sums.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"halfs": np.zeros((2, 2), np.uint16)}, r"halfs must have shape \(num_entries"),
        ({"halfs": np.zeros((3, 1), np.uint16)}, r"halfs must have shape \(num_entries"),
        ({"halfs": np.zeros(6, np.uint16)}, r"halfs must have shape \(num_entries"),
        ({"decays": np.zeros(0, np.float32)}, "num_terms must be in"),
        ({"decays": np.zeros(65, np.float32)}, "num_terms must be in"),
        ({"decays": np.zeros((1, 2), np.float32)}, "decays must be 1-D"),
        ({"rows": np.zeros((2, 1), np.int64)}, "rows must have shape"),
        ({"rows": np.zeros(1, np.int64)}, "rows must have shape"),
        ({"num_recent": 0}, "num_recent"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_terms_that_do_not_fit(changes, message):
    given_terms = {
        "history_rows": np.array([0, 1]),
        "offsets": np.array([0, 2]),
        "num_recent": 3,
        "rows": np.zeros((1, 1), np.int64),
        "halfs": np.zeros((3, 2), np.uint16),
        "decays": np.ones(2, np.float32),
    }
    evidence = Evidence(INDPTR, INDICES, DATA)
    evidence.sum_terms(**given_terms)
    with pytest.raises(ValueError, match=message):
        evidence.sum_terms(**(given_terms | changes))


def test_items_of_a_live_catalogue_go_by_their_ids():
    rng = np.random.default_rng(0)
    sids = rng.integers(0, 5, (40, 2), np.int32)
    live = LiveTrie(sids[:30].copy(), np.arange(30), [5, 5])
    live.remove(np.arange(0, 30, 3))
    live.compact()  # rows are no ids any more
    live.add(sids[30:].copy(), np.arange(30, 40))
    live.remove(np.array([1, 31]))
    snapshot = live.snapshot()
    matrix = random_matrix(rng, 45, 30)  # it knows items that the catalogue does not
    history = np.array([2, 44, 8, 33])
    gone = {*range(0, 30, 3), 1, 31, *range(40, 45), 2, 8, 33}
    exclude = np.array([0, 3]), snapshot.rows_of(np.array([2, 8, 33]))
    item_filter = ItemFilter(snapshot, 1, exclude=exclude)
    rows, _ = Evidence(*matrix).top(history, np.array([0, 4]), 0.9, 20, 50, item_filter=item_filter)
    want, _ = best(reference(matrix, history, 0.9, 20), 50, lambda item: item not in gone)
    assert rows[0].tolist() == want


def test_arrays_may_be_forgotten_but_not_resized():
    matrix = random_matrix(np.random.default_rng(3), 50, 9)
    evidence, (rows, offsets) = Evidence(*matrix), ragged([[1, 2, 3]])
    want = evidence.top(rows, offsets, 0.5, 9, 5)
    indices = matrix[1]
    indptr, *_ = matrix
    indptr[:] = 2**60  # it was copied
    indices[:] = -5  # harms no one
    assert (evidence.top(rows, offsets, 0.5, 9, 5)[0] == -1).all()
    indices[:] = np.iinfo(np.int32).max
    assert (evidence.score(rows, offsets, 0.5, 9, want[0]) == 0).all()
    indices.resize(1, refcheck=False)
    with pytest.raises(ValueError, match="the matrix was resized"):
        evidence.top(rows, offsets, 0.5, 9, 5)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ((np.zeros(0, np.int64), INDICES, DATA), "indptr must have shape"),
        ((np.array([0, 3, 1]), INDICES, DATA), "indptr must rise"),
        ((np.array([1, 1, 3]), INDICES, DATA), "indptr must rise"),
        ((np.array([0, 2**62, 3]), INDICES, DATA), "indptr must rise"),
        ((np.array([0, 1, 4]), INDICES, DATA), "indptr must rise"),
        ((INDPTR, np.array([1, 2, 0], np.int32), DATA), r"indices\[1\] = 2 is outside \[0, 2\)"),
        ((INDPTR, np.array([1, -1, 0], np.int32), DATA), r"indices\[1\] = -1 is outside"),
        ((INDPTR, INDICES, np.array([1, 2, np.nan], np.float32)), r"data\[2\] is not finite"),
        ((INDPTR, INDICES, np.array([np.inf, 2, 0], np.float32)), r"data\[0\] is not finite"),
        ((INDPTR, INDICES, DATA[:2].copy()), "data must have shape"),
    ],
)
def test_rejects_what_is_no_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        Evidence(*matrix)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": np.array([0, 2])}, "offsets must rise from 0 to the rows' end"),
        ({"offsets": np.array([0, 2**40, 3])}, "offsets must rise"),
        ({"offsets": np.zeros(0, np.int64)}, r"offsets must have shape \(batch \+ 1,\)"),
        ({"decay": np.nan}, r"decay must be in \[0, 1\]"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\]"),
        ({"num_recent": 0}, "num_recent must be at least 1"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": 2**40}, "k must be in"),
        ({"num_threads": 0}, "num_threads must be in"),
        ({"item_filter": ItemFilter(ItemTrie(np.zeros((2, 1), np.int32), [1]), 2)}, "a batch of 2"),
    ],
)
def test_rejects_what_is_no_request(changes, message):
    arguments = {
        **{"history_rows": np.array([0, 1, 0]), "offsets": np.array([0, 3])},
        **{"decay": 0.5, "num_recent": 5, "k": 2},
    }
    evidence = Evidence(INDPTR, INDICES, DATA)
    evidence.top(**arguments)
    with pytest.raises(ValueError, match=message):
        evidence.top(**{**arguments, **changes})


def test_scores_are_for_as_many_requests_as_there_are_histories():
    with pytest.raises(ValueError, match="rows must have shape"):
        Evidence(INDPTR, INDICES, DATA).score(*ragged([[0]]), 0.5, 5, np.zeros((2, 1), np.int64))
