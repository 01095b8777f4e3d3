import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.packing import Document, fill_rows, history_windows, pack


def document(length, task_id=0):
    return Document(np.arange(length), np.arange(length) + 1, task_id)


def test_pack_lays_documents_behind_each_other_longest_first():
    batch = pack([document(2, 1), document(3, 0)])
    assert batch.tokens.tolist() == [0, 1, 2, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.target_tasks.tolist() == [0, 0, 0, 1, 1]


def test_pack_needs_a_document():
    with pytest.raises(ValueError, match="at least one document"):
        pack([])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 7), st.booleans())
def test_windows_hold_every_event_once(lengths, max_items, is_shifted):
    offsets = np.r_[0, np.cumsum(lengths)]
    rng = np.random.default_rng(0) if is_shifted else None
    windows = history_windows(offsets, max_items, rng).tolist()
    assert [i for begin, end in windows for i in range(begin, end)] == list(range(offsets[-1]))
    assert all(0 < end - begin <= max_items for begin, end in windows)
    users = np.searchsorted(offsets, [begin for begin, _ in windows], side="right")
    assert (users == np.searchsorted(offsets, [end - 1 for _, end in windows], side="right")).all()


def test_long_histories_are_cut_elsewhere_every_time():
    rng = np.random.default_rng(0)
    offsets = np.array([0, 95])
    firsts = {history_windows(offsets, 10, rng)[0, 1] for _ in range(200)}
    assert firsts == set(range(1, 11))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
def test_rows_hold_every_document_once_and_differ_by_less_than_one(lengths, data):
    num_rows = data.draw(st.integers(1, len(lengths)))
    rows = fill_rows(np.array(lengths), num_rows)
    assert sorted(i for row in rows for i in row.tolist()) == list(range(len(lengths)))
    assert all(len(row) for row in rows)
    loads = [sum(lengths[i] for i in row) for row in rows]
    assert max(loads) - min(loads) <= max(lengths)


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="3 rows need as many documents, got 2"):
        fill_rows(np.array([1, 2]), 3)


def real_share(lengths, tokens_per_row):
    """Real tokens among those of rows that are all as wide as the fullest."""
    num_rows = -(-lengths.sum() // tokens_per_row)
    loads = [lengths[row].sum() for row in fill_rows(lengths, num_rows)]
    return sum(loads) / (num_rows * max(loads))


def window_lengths(history_lengths, max_items, num_levels, rng):
    windows = history_windows(np.r_[0, np.cumsum(history_lengths)], max_items, rng)
    return np.diff(windows, axis=1).ravel() * num_levels


@pytest.mark.parametrize("tokens_per_row", [1024, 4096, 8192])
def test_rows_of_histories_like_movielens_are_full(tokens_per_row):
    rng = np.random.default_rng(0)
    histories = np.maximum(20, rng.lognormal(4.2, 1.0, 943).astype(int))  # 106 events on average
    lengths = np.r_[window_lengths(histories, 50, 3, rng), rng.integers(8, 40, 1682)]
    assert real_share(rng.permutation(lengths), tokens_per_row) > 0.98


@pytest.mark.parametrize("name", ["beauty", "office"])
@pytest.mark.parametrize("tokens_per_row", [1024, 8192])
def test_rows_of_real_histories_are_full(name, tokens_per_row):
    path = Path(__file__).parents[3] / "shared" / "data" / name / "interactions.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with path.open(encoding="utf-8") as file:
        users = [row["user_id"] for row in csv.DictReader(file)]
    histories = np.array([len(list(group)) - 2 for _, group in itertools.groupby(users)])
    lengths = window_lengths(histories, 20, 4, np.random.default_rng(0))
    assert real_share(lengths, tokens_per_row) > 0.98


def test_every_row_gets_the_same_mix_of_lengths():
    lengths = np.r_[np.full(200, 100), np.full(400, 10)]
    for row in fill_rows(lengths, 20):
        assert (lengths[row] == 100).sum() == 10
        assert (lengths[row] == 10).sum() == 20
