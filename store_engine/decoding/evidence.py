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
from store_engine.decoding.graphs.device_evidence import NewVotes, SparseEvidence, VoteMatrix
from store_engine.decoding.vote_sums import AnyRows, ExpertScores, VoteSums
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
        """Shares out an item's evidence, without an offset, among a history's events (n,): (n,)."""

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
        self._experts = ExpertScores(self._sum, votes.experts) if votes.experts else None
        self._new: _NewItems | None = None
        self.sparse = SparseEvidence(matrix, votes.decay, votes.window, votes.experts)

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

    def score(self, histories: Sequence[AnyRows], rows: Rows) -> NDArray[np.float32]:
        """Returns the evidence of given items; see `EvidenceScorer`."""
        scores, new = (self._experts or self._sum).score(histories, rows), self._new
        if new is None:
            return scores
        is_new = (rows >= self.num_items) & (rows < new.sums.num_items)
        own = new.sums.score(histories, np.where(is_new, rows, -1))
        return scores + own + np.where(is_new, new.offset, np.float32(0))

    def votes(self, history: Rows, row: int) -> NDArray[np.float32]:
        """Shares out an item's evidence among events; see `EvidenceScorer`.

        What an expert gives the item is shared out as the votes that it counts.
        """
        scorer, new = self._experts or self._sum, self._new
        if new is not None and self.num_items <= row < new.sums.num_items:
            scorer = new.sums
        return scorer.by_event(history, row).astype(np.float32)


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
