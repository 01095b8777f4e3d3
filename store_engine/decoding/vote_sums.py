"""Sums of what a history's events vote for items, and what experts make of them; by the core."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine import _C
from store_engine.collaborative.evidence import Evidence
from store_engine.collaborative.experts import Expert
from store_engine.decoding.graphs.device_evidence import VoteMatrix

Rows = NDArray[np.int64]
AnyRows = NDArray[np.integer[Any]]  # of a history, as the data have them


class VoteSums:
    """Decayed sums of a history's votes.

    Args:
        matrix: The votes.
        decay: Weight of an event against the one after it.
        window: Last events that vote.
    """

    def __init__(self, matrix: VoteMatrix, decay: float, window: int) -> None:
        self.matrix, self.decay, self.window = matrix, decay, window
        self._core = _C.Evidence(matrix.indptr, matrix.indices, matrix.data)

    @classmethod
    def of(cls, votes: Evidence) -> "VoteSums":
        """The sums of evidence as it is."""
        return cls(VoteMatrix(votes.indptr, votes.indices, votes.data), votes.decay, votes.window)

    @property
    def num_items(self) -> int:
        """Items that vote and are voted for."""
        return self._core.num_items

    def top(self, histories: Sequence[AnyRows], k: int, item_filter: _C.ItemFilter | None) -> Rows:
        """Finds the items of the largest sums: (batch, k) rows, -1 where there are no more."""
        rows, _ = self._core.top(
            *self._recent(histories),
            self.decay,
            self.window,
            k,
            item_filter=item_filter,
            num_threads=torch.get_num_threads(),
        )
        return rows

    def score(self, histories: Sequence[AnyRows], rows: Rows) -> NDArray[np.float32]:
        """Sums the votes for given items, (batch, width) as `rows`; 0 for one without votes."""
        return self._core.score(
            *self._recent(histories),
            self.decay,
            self.window,
            np.ascontiguousarray(rows),
            num_threads=torch.get_num_threads(),
        )

    def score_terms(
        self,
        histories: Sequence[AnyRows],
        rows: Rows,
        halfs: NDArray[np.uint16],
        decays: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Sums other votes at the matrix's entries, of several terms.

        Args:
            histories: Catalogue rows of each, oldest first.
            rows: (batch, width) items.
            halfs: (num_votes, num_terms) the bits of float16 votes.
            decays: (num_terms,).

        Returns:
            (batch, width, num_terms).
        """
        return self._core.sum_terms(
            *self._recent(histories),
            self.window,
            np.ascontiguousarray(rows),
            halfs,
            decays,
            num_threads=torch.get_num_threads(),
        )

    def by_event(self, history: Rows, row: int) -> NDArray[np.float64]:
        """What every event of a history (n,) adds to the sum of an item: (n,)."""
        votes = self.score(*_each_alone(history, row))[:, 0]
        return votes * self.weights(len(history), self.decay)

    def weights(self, num_events: int, decay: float) -> NDArray[np.float64]:
        """How much each of the last events counts, (num_events,), oldest first."""
        age = np.arange(num_events)[::-1]
        weights: NDArray[np.float64] = np.where(age < self.window, np.float64(decay) ** age, 0)
        return weights

    def _recent(self, histories: Sequence[AnyRows]) -> tuple[Rows, Rows]:
        recent = [history[-self.window :] for history in histories]
        offsets = np.cumsum([0, *map(len, recent)], dtype=np.int64)
        return np.concatenate([np.zeros(0, dtype=np.int64), *recent]), offsets


class ExpertScores:
    """What experts give items.

    Args:
        sums: Of the evidence, at whose entries they vote.
        experts: One or more.
    """

    def __init__(self, sums: VoteSums, experts: Sequence[Expert]) -> None:
        self._sums = sums
        self._halfs = np.stack([expert.data for expert in experts], axis=1).view(np.uint16)
        self._decays, self._weights, self._units = np.array(
            [(expert.decay, expert.weight, expert.unit) for expert in experts], dtype=np.float32
        ).T.copy()

    def sums(self, histories: Sequence[AnyRows], rows: Rows) -> NDArray[np.float32]:
        """Each expert's votes for given items, (batch, width): (batch, width, num_experts)."""
        return self._sums.score_terms(histories, rows, self._halfs, self._decays)

    def score(self, histories: Sequence[AnyRows], rows: Rows) -> NDArray[np.float32]:
        """Scores given items, (batch, width) as `rows`; 0 for one without votes."""
        scores = np.zeros(rows.shape, dtype=np.float32)
        sums = self.sums(histories, rows)
        for term, (weight, unit) in enumerate(zip(self._weights, self._units, strict=True)):
            scores += weight * np.log1p(sums[..., term] / unit)
        return scores

    def by_event(self, history: Rows, row: int) -> NDArray[np.float64]:
        """Shares out an item's score among the events of a history (n,), as they voted: (n,)."""
        votes = self.sums(*_each_alone(history, row))[:, 0].astype(np.float64)
        shares = np.zeros(len(history))
        for term, (decay, weight, unit) in enumerate(
            zip(self._decays, self._weights, self._units, strict=True)
        ):
            own = votes[:, term] * self._sums.weights(len(history), float(decay))
            if own.any():
                shares += weight * np.log1p(own.sum() / unit) * own / own.sum()
        return shares


def _each_alone(history: Rows, row: int) -> tuple[list[Rows], Rows]:
    """Every event as a history of its own, and the item for each."""
    return [history[i : i + 1] for i in range(len(history))], np.full((len(history), 1), row)
