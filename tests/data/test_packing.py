import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.packing import Document, deal, history_windows, pack, split_by_tokens


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


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 7), st.booleans())
def test_windows_hold_every_event_once(lengths, max_items, is_shifted):
    offsets = np.r_[0, np.cumsum(lengths)]
    rng = np.random.default_rng(0) if is_shifted else None
    windows = history_windows(offsets, max_items, rng)
    assert [i for begin, end in windows for i in range(begin, end)] == list(range(offsets[-1]))
    assert all(0 < end - begin <= max_items for begin, end in windows)
    users = np.searchsorted(offsets, [begin for begin, _ in windows], side="right")
    assert (users == np.searchsorted(offsets, [end - 1 for _, end in windows], side="right")).all()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
def test_parts_cover_all_documents_and_none_is_empty(lengths, data):
    num_parts = data.draw(st.integers(1, len(lengths)))
    parts = split_by_tokens(np.array(lengths), num_parts)
    assert len(parts) == num_parts
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    assert all(part.stop > part.start for part in parts)


def test_parts_are_balanced():
    parts = split_by_tokens(np.full(100, 10), 4)
    assert [part.stop - part.start for part in parts] == [25, 25, 25, 25]


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_deal_gives_every_document_to_one_part(num_parts):
    documents = [document(length) for length in (5, 1, 4, 2, 3, 6)]
    parts = deal(documents, num_parts)
    assert sorted(len(d.tokens) for part in parts for d in part) == [1, 2, 3, 4, 5, 6]
    tokens = [sum(len(d.tokens) for d in part) for part in parts]
    assert max(tokens) - min(tokens) <= 6
