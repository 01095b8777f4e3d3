"""Which item was visited next to another: the positives of stage 1's contrastive loss."""

import numpy as np
from numpy.typing import NDArray

from store_engine.collaborative.co_visits import Counts
from store_engine.config import EvidenceConfig
from store_engine.data.histories import Histories


class Partners:
    """Draws partners of items, in proportion to their co-visits by popularity.

    Args:
        train: The events that may be counted.
        num_items: Size of the catalogue.
        settings: Window and smoothing of the co-visits.
    """

    def __init__(self, train: Histories, num_items: int, settings: EvidenceConfig) -> None:
        counts = Counts(train, num_items, settings)
        weights = counts.normalised(counts.symmetric)
        self._ends = np.asarray(weights.indptr)
        self._partners = np.asarray(weights.indices)
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights.data)])

    def draw(self, rows: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Draws a partner of every row; an item without co-visits is its own.

        Args:
            rows: (n,) catalogue rows.
            generator: Source of randomness.

        Returns:
            (n,) catalogue rows.
        """
        if not len(self._partners):
            return rows.copy()
        low, high = self._cumulative[self._ends[rows]], self._cumulative[self._ends[rows + 1]]
        at = low + generator.random(len(rows)) * (high - low)
        drawn = np.searchsorted(self._cumulative, at, side="right") - 1
        drawn = np.clip(drawn, self._ends[rows], self._ends[rows + 1] - 1)
        is_alone = self._ends[rows] == self._ends[rows + 1]
        return np.where(is_alone, rows, self._partners[drawn].astype(np.int64))
