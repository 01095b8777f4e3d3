"""Ranking by neighbours: the last events of a history vote for the items beside theirs."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Rows = NDArray[np.int32]


def recent_events(
    histories: Sequence[Rows], num_items: int, decay: float, window: int
) -> sp.csr_array:
    """Weighs the last events of histories: decay^k for the one k steps from the end.

    Args:
        histories: Per user the catalogue rows seen so far, oldest first.
        num_items: Size of the catalogue.
        decay: Weight of an event against the one after it.
        window: Last events that are looked at.

    Returns:
        (num_users, num_items) float64. An item that was visited twice has two entries.
    """
    recent = [history[: -window - 1 : -1] for history in histories]
    lengths = np.array([len(events) for events in recent], dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    back = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    rows = np.concatenate([np.empty(0, dtype=np.int32), *recent])
    shape = (len(recent), num_items)
    return sp.csr_array((decay**back, rows, indptr), shape=shape)


def rank_neighbours(
    matrix: sp.csr_array, events: sp.csr_array, histories: Sequence[Rows], k: int, exclude: bool
) -> NDArray[np.int64]:
    """Ranks items by the votes of recent events.

    Args:
        matrix: (num_items, num_items), entry [a, b] the vote of a for b.
        events: (num_users, num_items), of `recent_events`.
        histories: Per user the catalogue rows seen so far.
        k: Length of the rankings.
        exclude: Leave out the items that the user has seen.

    Returns:
        (num_users, k) catalogue rows, best first, equals by the lower row, -1 padded: items that
        nothing votes for are not ranked.
    """
    rankings = np.full((len(histories), k), -1, dtype=np.int64)
    for begin in range(0, len(histories), 1024):
        votes = events[begin : begin + 1024] @ matrix
        votes.sort_indices()
        for user, history in enumerate(histories[begin : begin + 1024]):
            entries = slice(votes.indptr[user], votes.indptr[user + 1])
            rows, scores = votes.indices[entries], votes.data[entries]
            is_ranked = scores != 0
            if exclude:
                is_ranked &= ~np.isin(rows, history)
            rows, scores = rows[is_ranked], scores[is_ranked]
            best = rows[np.argsort(-scores, kind="stable")[:k]]
            rankings[begin + user, : len(best)] = best
    return rankings
