"""Item-item evidence beside the LLM: an item's score is its log-probability plus its evidence.

The candidates are the items that the beam found and some that have the most evidence. The LLM's
log-probability of these is exact: their paths are walked beside the beams.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine import _C
from store_engine.catalog.catalog_view import CatalogView
from store_engine.catalog.item_filter import ItemFilter
from store_engine.collaborative.evidence import Evidence, NewItemVotes
from store_engine.collaborative.experts import Expert
from store_engine.decoding.graphs.device_evidence import (
    ExpertVotes,
    NewVotes,
    SparseEvidence,
    VoteMatrix,
)
from store_engine.errors import InputError
from store_engine.kernels.trie_topk import Normalize
from store_engine.runs.run import Run

Rows = NDArray[np.int64]


class EvidenceScorer(Protocol):
    """What the histories alone say of the next item, in units of log-probability."""

    @property
    def num_items(self) -> int:
        """Catalogue rows that it knows; later ones have no evidence."""

    def top(self, histories: Sequence[Rows], k: int, item_filter: ItemFilter | None) -> Rows:
        """Finds the items with the most votes.

        Args:
            histories: Catalogue rows of each, oldest first.
            k: Items wanted.
            item_filter: What each history may be given, of a catalogue in its own order of rows or
                of a snapshot; None: every item.

        Returns:
            (batch, at least k) catalogue rows, -1 where there are no more: k of the items that were
            counted, and as many new ones, where these have votes.
        """

    def score(self, histories: Sequence[Rows], rows: Rows) -> NDArray[np.float32]:
        """Returns the evidence of given items, (batch, width) as `rows`; 0 for -1."""

    def votes(self, history: Rows, row: int) -> NDArray[np.float32]:
        """Returns what each event of a history (n,) votes for an item, (n,), without an offset."""

    def with_new_items(self, votes: NewItemVotes, num_rows: int) -> "EvidenceScorer":
        """Returns the evidence with these votes for new items, in place of any before.

        Args:
            votes: For the items behind those that were counted.
            num_rows: Catalogue rows that there are.

        Raises:
            InputError: The votes are for others.
        """


def choose_evidence(
    evidence: EvidenceScorer | None,
    wanted: bool | None,
    default: Literal["none", "auto"],
    normalize: Normalize,
) -> EvidenceScorer | None:
    """Returns the evidence that a call adds; None: it adds none.

    Args:
        evidence: The engine's.
        wanted: What the call says.
        default: What the engine's config says where the call says nothing.
        normalize: What a softmax runs over.

    Raises:
        InputError: Evidence is wanted, but there is none, or log-probabilities are none.
    """
    if wanted is None:
        wanted = default == "auto" and evidence is not None
    if not wanted:
        return None
    if evidence is None:
        raise InputError("evidence=True needs an engine that was given evidence")
    if normalize != "codebook":
        raise InputError(
            "evidence is added to the model's likelihood: it needs normalize='codebook', got "
            f"{normalize!r}; evidence=False leaves it out"
        )
    return evidence


class VoteSums:
    """Decayed sums of a history's votes, by the C++ core.

    Args:
        matrix: The votes.
        decay: Weight of an event against the one after it.
        window: Last events that vote.
    """

    def __init__(self, matrix: VoteMatrix, decay: float, window: int) -> None:
        self.matrix, self.decay, self.window = matrix, decay, window
        self._core = _C.Evidence(matrix.indptr, matrix.indices, matrix.data)

    @property
    def num_items(self) -> int:
        """Items that vote and are voted for."""
        return self._core.num_items

    def top(self, histories: Sequence[Rows], k: int, item_filter: _C.ItemFilter | None) -> Rows:
        """Finds the items of the largest sums: (batch, k) rows, -1 where there are no more."""
        threads = torch.get_num_threads()
        recent = self._recent(histories)
        return self._core.top(*recent, k, item_filter=item_filter, num_threads=threads)[0]

    def score(self, histories: Sequence[Rows], rows: Rows) -> NDArray[np.float32]:
        """Sums the votes for given items, (batch, width) as `rows`; 0 for a row without votes."""
        threads = torch.get_num_threads()
        return self._core.score(
            *self._recent(histories), np.ascontiguousarray(rows), num_threads=threads
        )

    def by_event(self, history: Rows, row: int) -> NDArray[np.float64]:
        """What every event of a history (n,) adds to the sum of an item: (n,)."""
        alone = [history[i : i + 1] for i in range(len(history))]
        votes = self.score(alone, np.full((len(history), 1), row))[:, 0]
        age = np.arange(len(history))[::-1]
        weights = np.where(age < self.window, np.float64(self.decay) ** age, 0)
        return votes.astype(np.float64) * weights

    def _recent(self, histories: Sequence[Rows]) -> tuple[Rows, Rows, float, int]:
        recent = [history[-self.window :] for history in histories]
        offsets = np.cumsum([0, *map(len, recent)], dtype=np.int64)
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *recent])
        return rows, offsets, self.decay, self.window


def expert_sums(votes: Evidence, expert: Expert) -> VoteSums:
    """The sums of an expert over the entries of evidence."""
    matrix = VoteMatrix(votes.indptr, votes.indices, expert.data.astype(np.float32))
    return VoteSums(matrix, expert.decay, votes.window)


class _NewItems(NamedTuple):
    """The votes for new items."""

    sums: VoteSums
    offset: np.float32


class ItemEvidence:
    """The evidence of a run, scored by the C++ core.

    The sum of the votes names items. What an item counts beside the LLM is what the experts give
    it, or without experts the sum.

    Args:
        votes: The item-item matrix, its decay and its window, and the experts.
        scale: Weight of a vote against a log-probability; of the sum alone.

    Attributes:
        sparse: What it is made of, for a device.
    """

    def __init__(self, votes: Evidence, scale: float = 1.0) -> None:
        matrix = VoteMatrix(votes.indptr, votes.indices, votes.data * np.float32(scale))
        self._sum = VoteSums(matrix, votes.decay, votes.window)
        self._experts = [(expert_sums(votes, expert), expert) for expert in votes.experts]
        self._new: _NewItems | None = None
        experts = tuple(
            ExpertVotes(sums.matrix, sums.decay, np.float32(one.weight), np.float32(one.unit))
            for sums, one in self._experts
        )
        self.sparse = SparseEvidence(matrix, votes.decay, votes.window, experts)

    @property
    def num_items(self) -> int:
        """See `EvidenceScorer`."""
        return self._sum.num_items

    def with_new_items(self, votes: NewItemVotes, num_rows: int) -> "ItemEvidence":
        """Adds votes for new items; see `EvidenceScorer`."""
        end = votes.matrix.shape[0]
        if votes.num_old != self.num_items or not self.num_items < end <= num_rows:
            raise InputError(
                f"votes must be for the items of rows {self.num_items} to {num_rows - 1}, which "
                f"the evidence does not know, are for {votes.num_old} to {end - 1}"
            )
        matrix = VoteMatrix(
            votes.matrix.indptr.astype(np.int64),
            votes.matrix.indices.astype(np.int32),
            votes.matrix.data.astype(np.float32),
        )
        scorer, offset = copy.copy(self), np.float32(votes.offset)
        scorer._new = _NewItems(VoteSums(matrix, self._sum.decay, self._sum.window), offset)
        scorer.sparse = dataclasses.replace(self.sparse, new=NewVotes(matrix, offset))
        return scorer

    def top(self, histories: Sequence[Rows], k: int, item_filter: ItemFilter | None) -> Rows:
        """Finds the items with the largest sums; see `EvidenceScorer`."""
        core = item_filter.core if item_filter is not None else None
        sums = [self._sum] if self._new is None else [self._sum, self._new.sums]
        return np.hstack([one.top(histories, k, core) for one in sums])

    def score(self, histories: Sequence[Rows], rows: Rows) -> NDArray[np.float32]:
        """Returns the evidence of given items; see `EvidenceScorer`."""
        scores, new = self._counted(histories, rows), self._new
        if new is None:
            return scores
        is_new = (rows >= self.num_items) & (rows < new.sums.num_items)
        own = new.sums.score(histories, np.where(is_new, rows, -1))
        return scores + own + np.where(is_new, new.offset, np.float32(0))

    def _counted(self, histories: Sequence[Rows], rows: Rows) -> NDArray[np.float32]:
        if not self._experts:
            return self._sum.score(histories, rows)
        scores = np.zeros(rows.shape, dtype=np.float32)
        for sums, expert in self._experts:
            own = np.log1p(sums.score(histories, rows) / np.float32(expert.unit))
            scores += np.float32(expert.weight) * own
        return scores

    def votes(self, history: Rows, row: int) -> NDArray[np.float32]:
        """Returns what each event votes for an item; see `EvidenceScorer`.

        What an expert gives the item is shared out as the votes that it counts.
        """
        new = self._new
        if new is not None and self.num_items <= row < new.sums.num_items:
            return new.sums.by_event(history, row).astype(np.float32)
        if not self._experts:
            return self._sum.by_event(history, row).astype(np.float32)
        votes = np.zeros(len(history))
        for sums, expert in self._experts:
            own = sums.by_event(history, row)
            if own.any():
                votes += expert.weight * np.log1p(own.sum() / expert.unit) * own / own.sum()
        return votes.astype(np.float32)


def run_evidence(run: Run) -> ItemEvidence | None:
    """Returns the evidence that a run recommends with; None: it has none, or leaves it out."""
    if run.config.decoding.evidence == "none" or run.evidence_now is None:
        return None
    return ItemEvidence(run.evidence_now)


class Found(NamedTuple):
    """The best items of each history, (num_histories, k) all: catalogue rows, -1 for none."""

    rows: Rows
    logprobs: NDArray[np.float32]  # the LLM's; -inf for none
    evidence: NDArray[np.float32]  # 0 without evidence

    @classmethod
    def nothing(cls, num: int, k: int) -> "Found":
        """Makes `num` empty rankings."""
        rows = np.full((num, k), -1, dtype=np.int64)
        logprobs = np.full((num, k), -np.inf, dtype=np.float32)
        return cls(rows, logprobs, np.zeros((num, k), dtype=np.float32))

    @classmethod
    def llm_alone(cls, rows: Rows, logprobs: NDArray[np.float32]) -> "Found":
        """Makes rankings without evidence."""
        return cls(rows, logprobs, np.zeros_like(logprobs))

    def put(self, ids: Rows, part: "Found") -> None:
        """Fills in the rankings of some histories."""
        self.rows[ids], self.logprobs[ids], self.evidence[ids] = part

    @classmethod
    def best_of(
        cls,
        rows: Rows,
        logprobs: NDArray[np.float32],
        evidence: NDArray[np.float32],
        k: int,
        view: CatalogView,
    ) -> "Found":
        """Takes the k best by the sum; of equals the lower SID, then row.

        Args:
            rows: (batch, width) catalogue rows, -1 for none; one that comes again counts once.
            logprobs: (batch, width).
            evidence: (batch, width).
            k: Wanted.
            view: The catalogue.
        """
        sids, threads = view.table.sids, torch.get_num_threads()
        return cls(*_C.best_of_sum(rows, logprobs, evidence, sids, k, num_threads=threads))

    @property
    def total(self) -> NDArray[np.float32]:
        """Log-probability plus evidence."""
        return self.logprobs + self.evidence
