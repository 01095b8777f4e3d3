"""Votes of recent events, and rankings by them."""

import numpy as np
import pytest
import scipy.sparse as sp

from store_engine.collaborative.neighbours import rank_neighbours, recent_events


def rows(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def test_recent_events_decay_from_the_end():
    got = recent_events(rows([3, 1, 0], [], [2, 2]), 4, 0.5, 2).toarray()
    assert got.tolist() == [[1, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1.5, 0]]


def test_nobody_has_no_events():
    assert recent_events([], 4, 0.5, 2).shape == (0, 4)


@pytest.mark.parametrize("exclude", [True, False], ids=["left out", "allowed"])
def test_ranking_against_a_loop(exclude):
    rng = np.random.default_rng(0)
    dense = rng.integers(-3, 4, (63, 63)) * (rng.random((63, 63)) < 0.5)
    votes, histories = (
        sp.csr_array(dense.astype(np.float64)),
        rows([1, 5, 5, 9], [], [0], list(range(63))),
    )
    events = recent_events(histories, 63, 0.5, 3)
    got = rank_neighbours(votes, events, histories, 63, exclude)
    for user, history in enumerate(histories):
        scores = np.zeros(63)
        for back, row in enumerate(history[::-1][:3]):
            scores += 0.5**back * votes.toarray()[row]
        if exclude:
            scores[history] = 0
        want = [row for row in np.argsort(-scores, kind="stable") if scores[row] != 0]
        assert got[user].tolist() == want + [-1] * (63 - len(want))
