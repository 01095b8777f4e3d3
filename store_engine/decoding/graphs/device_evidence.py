"""Evidence as a CUDA graph reads it: matrices on the device that stay where they are.

As with a `DeviceCatalog`, other votes are written into the same memory, which has room to grow;
where they do not fit, the memory is made anew and so must the graphs be (`generation`). Sums are
those of the core, to the bit; a logarithm may differ in its last one.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.collaborative.experts import Expert
from store_engine.kernels._dispatch import Backend
from store_engine.kernels.score_evidence import MAX_EVENTS, Events, Votes, score_evidence
from store_engine.kernels.top_evidence import Candidates, top_evidence
from store_engine.kernels.trie_select import Filter

_MAX_ENTRIES = 1 << 17  # of a history's events, each of which may be a candidate


@dataclass(frozen=True, eq=False)
class VoteMatrix:
    """A sparse item-item matrix in CSR form, on the host.

    Args:
        indptr: (num_items + 1,) int64.
        indices: (num_votes,) int32.
        data: (num_votes,) float32.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]

    @functools.cached_property
    def longest(self) -> int:
        """The most entries of a row."""
        return int(np.diff(self.indptr).max(initial=0))

    @functools.cached_property
    def ascends(self) -> bool:
        """The columns of every row ascend, each once, as a look-up needs it; O(num_votes)."""
        is_first = np.zeros(len(self.indices) + 1, dtype=bool)
        is_first[self.indptr] = True
        return bool((is_first[1:-1] | (np.diff(self.indices) > 0)).all())


class NewVotes(NamedTuple):
    """Votes for new items, and what is added to the score of one."""

    matrix: VoteMatrix
    offset: np.float32


@dataclass(frozen=True, eq=False)
class SparseEvidence:
    """All that evidence is made of.

    Args:
        sum: Names items, and scores them where there are no experts.
        decay: Weight of an event against the one after it, of `sum` and `new`.
        window: Last events that vote.
        experts: What scores items, over the entries of `sum`.
        new: Of new items, where there are some.
    """

    sum: VoteMatrix
    decay: float
    window: int
    experts: tuple[Expert, ...] = ()
    new: NewVotes | None = None

    @property
    def naming(self) -> list[VoteMatrix]:
        """The matrices that name items."""
        return [self.sum] if self.new is None else [self.sum, self.new.matrix]

    @property
    def fits_a_device(self) -> bool:
        """A graph can hold it: everything is in order, and within what its ops take."""
        return self.window <= MAX_EVENTS and all(
            len(matrix.indices) < 1 << 31
            and matrix.longest * self.window <= _MAX_ENTRIES
            and matrix.ascends
            for matrix in self.naming
        )


class DeviceEvidence:
    """One evidence at a time, on a device; who reads it calls `hold` first.

    Args:
        device: Where it is.

    Attributes:
        generation: Number of the memory; another one means other tensors.
        num_matrices: Lists of candidates that `top` finds.
        window: Events of a history.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.generation = device, 0
        self.num_matrices, self.window = 0, 0
        self._held: SparseEvidence | None = None
        self._naming: list[_ResidentVotes] = []
        self._experts: list[_ResidentExpert] = []
        self._weights = torch.zeros(0, device=device)
        self._new = torch.zeros(2, dtype=torch.int32, device=device)  # the new items: begin, end
        self._offset = torch.zeros(1, device=device)

    def hold(self, evidence: SparseEvidence) -> None:
        """Writes evidence into the memory, unless it is there already.

        Args:
            evidence: It `fits_a_device`.
        """
        if evidence is self._held:
            return
        self._held, matrices = None, evidence.naming  # until all is there
        sizes = len(matrices), len(evidence.experts), evidence.window
        pairs = zip(self._naming, matrices, strict=False)
        if sizes != (self.num_matrices, len(self._experts), self.window) or not all(
            votes.fits(matrix) for votes, matrix in pairs
        ):
            self._naming = [_ResidentVotes(matrix, self.device) for matrix in matrices]
            self._experts = [
                _ResidentExpert(self._naming[0].votes, evidence.window) for _ in evidence.experts
            ]
            self.num_matrices, self.window = len(matrices), evidence.window
            self._weights = torch.zeros(evidence.window, device=self.device)
            self.generation += 1
        for votes, matrix in zip(self._naming, matrices, strict=True):
            votes.write(matrix)
        for resident, expert in zip(self._experts, evidence.experts, strict=True):
            resident.write(expert)
        _write_powers(self._weights, evidence.decay)
        if evidence.new is not None:
            bounds = [len(matrix.indptr) - 1 for matrix in matrices]
            self._new.copy_(torch.tensor(bounds, dtype=torch.int32))
            self._offset.copy_(torch.tensor([evidence.new.offset]))
        self._held = evidence

    def write_events(self, histories: Sequence[NDArray[np.int64]], out: NDArray[np.int32]) -> None:
        """Writes the last events of histories, the latest first.

        Args:
            histories: Catalogue rows of each, oldest first.
            out: (batch, window), for as many histories or more; -1 where there is no event.
        """
        out.fill(-1)
        for events, history in zip(out, histories, strict=False):
            recent = history[: -self.window - 1 : -1]
            events[: len(recent)] = recent

    def top(
        self, events: Tensor, place_of_row: Tensor, k: int, item_filter: Filter | None, how: Backend
    ) -> Candidates:
        """Finds k items of each matrix: see `top_evidence`.

        Args:
            events: (batch, window) int32, as `write_events` writes them.
            place_of_row: (num_rows,) int32.
            k: Items of each matrix.
            item_filter: What each request may be given.
            how: The implementation of the ops.

        Returns:
            (batch, num_matrices * k) both.
        """
        given = Events(events, self._weights)
        found = [
            top_evidence(one.votes, given, place_of_row, k, filter=item_filter, backend=how)
            for one in self._naming
        ]
        if len(found) == 1:
            return found[0]
        return Candidates(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))

    def score(self, events: Tensor, rows: Tensor, how: Backend) -> Tensor:
        """Scores items, (batch, n) int32 catalogue rows: (batch, n) float32."""
        given = Events(events, self._weights)
        if self._experts:
            scores = torch.zeros(rows.shape, device=rows.device)
            for expert in self._experts:
                scores = scores + expert.score(events, rows, how)
        else:
            scores = score_evidence(self._naming[0].votes, given, rows, backend=how)
        if len(self._naming) == 1:
            return scores
        is_new = (rows >= self._new[0]) & (rows < self._new[1])
        own = score_evidence(self._naming[1].votes, given, rows, backend=how)
        return scores + own + is_new * self._offset


def _write_powers(weights: Tensor, decay: float) -> None:
    """Writes decay^n in float32, as the core multiplies."""
    powers = np.full(len(weights), decay, dtype=np.float32)
    powers[0] = 1
    weights.copy_(torch.from_numpy(np.cumprod(powers, dtype=np.float32)))


def _write_begin(tensor: Tensor, array: NDArray[Any]) -> None:
    """Writes an array into the beginning of a tensor."""
    # a copy where the array is read-only, which PyTorch does not know of
    tensor[: len(array)].copy_(torch.from_numpy(np.require(array, requirements="W")))


class _ResidentExpert:
    """An expert in memory: its votes are beside the sum's, at the same entries.

    Args:
        votes: The sum's.
        window: Last events that vote.
    """

    def __init__(self, votes: Votes, window: int) -> None:
        self._votes = votes._replace(data=torch.zeros_like(votes.data))
        self._weights = torch.zeros(window, device=votes.data.device)
        self._numbers = torch.zeros(2, device=votes.data.device)  # weight, unit
        self._held: Expert | None = None

    def write(self, expert: Expert) -> None:
        """Replaces what is there, if it is another one."""
        if expert is self._held:
            return
        self._held = None
        _write_begin(self._votes.data, expert.data)
        _write_powers(self._weights, expert.decay)
        self._numbers.copy_(torch.tensor([expert.weight, expert.unit]))
        self._held = expert

    def score(self, events: Tensor, rows: Tensor, how: Backend) -> Tensor:
        """What it gives items, (batch, n) as `rows`."""
        sums = score_evidence(self._votes, Events(events, self._weights), rows, backend=how)
        weight, unit = self._numbers
        return weight * torch.log1p(sums / unit)


class _ResidentVotes:
    """A matrix in memory with room to grow.

    Args:
        matrix: What there must be room for.
        device: Where it is.
    """

    def __init__(self, matrix: VoteMatrix, device: torch.device) -> None:
        num_rows, num_votes = len(matrix.indptr) - 1, len(matrix.indices)
        rows, room = num_rows + num_rows // 4 + 64, num_votes + num_votes // 4 + 64
        # a power of two: it decides how many steps a look-up takes
        longest = 1 << matrix.longest.bit_length()
        self.votes = Votes(
            torch.zeros(rows + 1, dtype=torch.int32, device=device),
            torch.zeros(room, dtype=torch.int32, device=device),
            torch.zeros(room, device=device),
            longest,
        )
        self._held: VoteMatrix | None = None

    def fits(self, matrix: VoteMatrix) -> bool:
        """Says whether there is room."""
        return (
            len(matrix.indptr) <= len(self.votes.begins)
            and len(matrix.indices) <= len(self.votes.items)
            and matrix.longest <= self.votes.longest
        )

    def write(self, matrix: VoteMatrix) -> None:
        """Replaces what is there, if it is another one."""
        if matrix is self._held:
            return
        self._held, votes = None, self.votes
        begins = np.full(len(votes.begins), len(matrix.indices), dtype=np.int32)
        begins[: len(matrix.indptr)] = matrix.indptr
        votes.begins.copy_(torch.from_numpy(begins))
        _write_begin(votes.items, matrix.indices)
        _write_begin(votes.data, matrix.data)
        self._held = matrix
