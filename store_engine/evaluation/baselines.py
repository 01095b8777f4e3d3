"""Training-free floors: what a recommender must beat to have learnt anything.

Both never recommend what the user's history holds, and break ties by the lower row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.histories import Histories

# the constants of co-visitation; chosen by hand. They matter: other sensible weights and norms gave
# a Recall@10 of about .18 to .23 on ML-100k, so a result is only comparable by this definition
_SMOOTHING = 10.0  # added to an item's frequency, so that rare pairs do not rule
_RECENT = 20  # events of the history that are looked at
_DECAY = 0.8  # weight of an event against the one after it


def train_frequency(train: Histories, num_items: int) -> NDArray[np.int64]:
    """(num_items,) training events per catalogue row."""
    return np.bincount(train.rows, minlength=num_items).astype(np.int64)


def popularity(
    train: Histories,
    num_items: int,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    exclude_history: bool = True,
) -> NDArray[np.int64]:
    """Ranks items by their number of training events.

    Args:
        train: What may be counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far.
        k: Length of the rankings.
        exclude_history: Leave out what the user has seen; the usual floor does.

    Returns:
        (num_users, k) catalogue rows, most popular first, -1 padded.
    """
    order = np.argsort(-train_frequency(train, num_items), kind="stable")
    rankings = np.full((len(histories), k), -1, dtype=np.int64)
    for user, history in enumerate(histories):
        best = order[: k + len(history)] if exclude_history else order[:k]
        if exclude_history:
            best = best[~np.isin(best, history)][:k]
        rankings[user, : len(best)] = best
    return rankings


def co_visitation(
    train: Histories,
    num_items: int,
    histories: Sequence[NDArray[np.int32]],
    k: int,
    *,
    window: int = 5,
) -> NDArray[np.int64]:
    """Ranks items by how often they stand close to those of the history, per their popularity.

    Two events of one user that are d <= window steps apart count (window + 1 - d) / window for
    their pair of items, both ways; a pair's sum is divided by the root of the items' smoothed
    frequencies. The last events of a history vote for their neighbours, recent ones with more
    weight.

    This definition is ours. Floors printed elsewhere under the name of co-visitation weigh pairs in
    ways of their own, and their figures differ from what this gives.

    Args:
        train: What may be counted.
        num_items: Size of the catalogue.
        histories: Per user the catalogue rows seen so far, oldest first.
        k: Length of the rankings.
        window: Most steps between two events that count as a visit together.

    Returns:
        (num_users, k) catalogue rows, best first, -1 padded: items never seen beside the history
        are not ranked.
    """
    graph = _neighbours(train, num_items, window)
    rankings = np.full((len(histories), k), -1, dtype=np.int64)
    for user, history in enumerate(histories):
        recent = history[: -_RECENT - 1 : -1]
        votes = _DECAY ** np.arange(len(recent))
        begin, end = graph.offsets[recent], graph.offsets[recent + 1]
        edges = _ragged_ranges(begin, end)
        weights = graph.weights[edges] * np.repeat(votes, end - begin)
        scores = np.bincount(graph.neighbours[edges], weights, minlength=num_items)
        scores[history] = 0.0
        found = np.flatnonzero(scores)
        best = found[np.argsort(-scores[found], kind="stable")][:k]
        rankings[user, : len(best)] = best
    return rankings


class _Graph(NamedTuple):
    """Weighted edges by source: those of row r are offsets[r]:offsets[r + 1]."""

    offsets: NDArray[np.int64]  # (num_items + 1,)
    neighbours: NDArray[np.int64]  # (num_edges,) rows, ascending within a source
    weights: NDArray[np.float64]  # (num_edges,)


def _neighbours(train: Histories, num_items: int, window: int) -> _Graph:
    """Counts the pairs of each distance in one array operation, both ways."""
    users = np.repeat(np.arange(train.num_users), np.diff(train.offsets))
    rows = train.rows.astype(np.int64)
    keys, weights = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    for distance in range(1, window + 1):
        is_pair = (users[:-distance] == users[distance:]) & (rows[:-distance] != rows[distance:])
        a, b = rows[:-distance][is_pair], rows[distance:][is_pair]
        keys += [a * num_items + b, b * num_items + a]
        weights.append(np.full(2 * len(a), (window + 1 - distance) / window))
    edges, edge_of_pair = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(edge_of_pair, weights=np.concatenate(weights), minlength=len(edges))
    sources, neighbours = np.divmod(edges, num_items)
    frequency = train_frequency(train, num_items) + _SMOOTHING
    shares = sums / np.sqrt(frequency[sources] * frequency[neighbours])
    offsets = np.searchsorted(sources, np.arange(num_items + 1)).astype(np.int64)
    return _Graph(offsets, neighbours, shares.astype(np.float64))


def _ragged_ranges(begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ranges begin[i] : end[i] one behind the other."""
    lengths = end - begin
    shift = np.repeat(begin - np.cumsum(lengths) + lengths, lengths)
    return np.arange(len(shift)) + shift
