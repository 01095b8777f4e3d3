"""Training-free floors: what a recommender must beat to have learnt anything.

Both never recommend what the user's history holds, and break ties by the lower row.
"""

from collections.abc import Sequence
from typing import NamedTuple
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.histories import Histories

_EXPANDED_PER_BATCH = 1 << 22  # (history item, neighbour) pairs held at once, about 200 MB


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

    TODO definition.

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
    begin = 0
    while begin < len(histories):
        end = _batch_end(histories, begin, graph.offsets)
        rankings[begin:end] = _rank(graph, histories[begin:end], num_items, k)
        begin = end
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
    keys, weights = [], []
    for distance in range(1, window + 1):
        together = users[:-distance] == users[distance:]
        a, b = rows[:-distance][together], rows[distance:][together]
        a, b = a[a != b], b[a != b]
        keys += [a * num_items + b, b * num_items + a]
        weights += [np.full(2 * len(a), PAIR_DECAY ** (distance - 1))]
    edges, edge_of_pair = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(edge_of_pair, weights=np.concatenate(weights), minlength=len(edges))
    sources, neighbours = np.divmod(edges, num_items)
    frequency = train_frequency(train, num_items) + SMOOTHING
    counts /= np.sqrt(frequency[sources] * frequency[neighbours])
    offsets = np.searchsorted(sources, np.arange(num_items + 1))
    return _Graph(offsets.astype(np.int64), neighbours, counts)
