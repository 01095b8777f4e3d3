"""Co-visits: how often one item came soon after another, as a sparse matrix.

Memory is bounded by the result and one block of events, never by the number of pairs.
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from store_engine.config import EvidenceConfig
from store_engine.data.histories import Histories

# pairs that are sorted at once; a block's arrays take about 50 bytes a pair
_MAX_PAIRS = 10_000_000


def event_counts(histories: Histories, num_items: int) -> NDArray[np.int64]:
    """Counts the events of every catalogue row: (num_items,)."""
    return np.bincount(histories.rows, minlength=num_items).astype(np.int64)


def co_visits(
    histories: Histories, num_items: int, window: int, max_pairs: int = _MAX_PAIRS
) -> sp.csr_array:
    """Counts which items came within `window` steps after which.

    Two events of one user that are d steps apart count (window + 1 - d) / window for their pair
    of different items.

    Args:
        histories: The events that may be counted.
        num_items: Size of the catalogue.
        window: Most steps between two events that count as a visit together, at least 1.
        max_pairs: Pairs that are held at once.

    Returns:
        (num_items, num_items) float64, entry [a, b] the weight of b after a; indices sorted.
    """
    users = np.repeat(np.arange(histories.num_users), np.diff(histories.offsets))
    block = max(1, max_pairs // window)
    counts = sp.csr_array((num_items, num_items), dtype=np.float64)
    for begin in range(0, histories.num_events, block):
        counts = counts + _block(histories.rows, users, begin, begin + block, window, num_items)
    counts.data /= window  # of whole numbers: sums are exact, in whatever order they were made
    counts.sort_indices()
    return counts


def normalised(
    counts: sp.csr_array, frequency: NDArray[np.integer], smoothing: float
) -> sp.csr_array:
    """Divides every entry [a, b] by sqrt((f_a + smoothing) (f_b + smoothing)).

    Args:
        counts: (num_items, num_items).
        frequency: (num_items,) events of every item.
        smoothing: Added to the frequencies, so that rare pairs do not rule; at least 0.

    Returns:
        A matrix of the same form, float64.
    """
    smoothed = frequency + smoothing
    sources = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    data = counts.data / np.sqrt(smoothed[sources] * smoothed[counts.indices])
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


class Counts:
    """Co-visits and frequencies of some events: what spaces, terms and partners are made from.

    Args:
        train: The events.
        num_items: Size of the catalogue.
        settings: Window and smoothing.
    """

    def __init__(self, train: Histories, num_items: int, settings: EvidenceConfig) -> None:
        self.train, self.num_items, self.settings = train, num_items, settings
        self.frequency: NDArray[np.int64] = event_counts(train, num_items)
        self.directed = co_visits(train, num_items, settings.window)

    @property
    def symmetric(self) -> sp.csr_array:
        """The co-visits both ways."""
        return sp.csr_array(self.directed + self.directed.T)

    def normalised(self, matrix: sp.csr_array) -> sp.csr_array:
        """Divides by the roots of the smoothed frequencies."""
        return normalised(matrix, self.frequency, self.settings.smoothing)


def _block(
    rows: NDArray[np.int32],
    users: NDArray[np.int64],
    begin: int,
    end: int,
    window: int,
    num_items: int,
) -> sp.csr_array:
    """Counts the pairs whose earlier event is in [begin, end), in steps of 1 / window."""
    sources, targets, weights = [], [], []
    for distance in range(1, window + 1):
        first = np.arange(begin, min(end, len(rows) - distance))
        second = first + distance
        is_pair = (users[first] == users[second]) & (rows[first] != rows[second])
        sources.append(rows[first[is_pair]])
        targets.append(rows[second[is_pair]])
        weights.append(np.full(len(sources[-1]), window + 1.0 - distance))
    pairs = (np.concatenate(sources), np.concatenate(targets))
    shape = (num_items, num_items)
    return sp.coo_array((np.concatenate(weights), pairs), shape=shape).tocsr()
