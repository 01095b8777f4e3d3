"""Co-visits against a plain loop, and in blocks of every size."""

import tracemalloc

import numpy as np
import pytest

from store_engine.collaborative.co_visits import co_visits, event_counts, normalised
from store_engine.data.histories import Histories
from store_engine.data.synthetic import synthetic


def loop(events: Histories, num_items: int, window: int) -> np.ndarray:
    counts = np.zeros((num_items, num_items))
    for user in range(events.num_users):
        history = events[user]
        for i, a in enumerate(history):
            for d in range(1, window + 1):
                if i + d < len(history) and history[i + d] != a:
                    counts[a, history[i + d]] += (window + 1 - d) / window
    return counts


@pytest.mark.parametrize("window", [1, 2, 5, 63])
def test_against_a_loop(window):
    _, events = synthetic(63, 100, 6, seed=1)
    got = co_visits(events, 63, window)
    np.testing.assert_allclose(got.toarray(), loop(events, 63, window))
    assert got.has_sorted_indices and got.diagonal().sum() == 0


@pytest.mark.parametrize("max_pairs", [1, 7, 1000, 10**9])
def test_blocks_change_nothing(max_pairs):
    _, events = synthetic(63, 100, 6, seed=2)
    whole, blocks = co_visits(events, 63, 5), co_visits(events, 63, 5, max_pairs=max_pairs)
    assert (whole.indptr == blocks.indptr).all() and (whole.indices == blocks.indices).all()
    assert whole.data.tobytes() == blocks.data.tobytes()  # sums of whole numbers are exact


def test_memory_is_bounded_by_the_result_and_a_block():
    rows = np.random.default_rng(0).integers(0, 50, 200_000).astype(np.int32)
    events = Histories(("u",), rows, np.array([0, len(rows)]))
    tracemalloc.start()
    co_visits(events, 50, 20, max_pairs=20_000)  # of 4 million pairs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 200_000 + 100 * 20_000


@pytest.mark.parametrize("sequences", [[], [[]], [[2]], [[1, 1, 1]]], ids=str)
def test_nothing_to_count(histories, sequences):
    counts = co_visits(histories(*sequences), 3, 5)
    assert counts.shape == (3, 3) and counts.nnz == 0
    assert normalised(counts, np.zeros(3, dtype=np.int64), 0.0).nnz == 0


def test_normalised_divides_by_the_roots(histories):
    events = histories([0, 1, 2], [1, 2])
    counts, frequency = co_visits(events, 4, 2), event_counts(events, 4)
    assert frequency.tolist() == [1, 2, 2, 0]
    got = normalised(counts, frequency, 3.0).toarray()
    want = counts.toarray() / np.sqrt(np.outer(frequency + 3.0, frequency + 3.0))
    np.testing.assert_allclose(got, want)
