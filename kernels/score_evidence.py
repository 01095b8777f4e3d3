"""What the events of a history say of given items, by a sparse item-item matrix.

    score of item j = sum over the events, the latest first, of weight[n] * matrix[event n, j]

in float32 and in that order: the bits of the C++ core. An item is looked up in every event's row by
binary search, so no tensor of all items exists, and how long a row is decides the number of steps
alone. One program takes a few items and all events. Bound by the latency of the look-ups. Ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine.kernels._checks import check_tensor
from store_engine.kernels._dispatch import Backend, use_triton

MAX_EVENTS = 1024  # whose votes for an item one program holds


class Votes(NamedTuple):
    """A sparse matrix in CSR form; it need not have all rows."""

    begins: Tensor  # (num_rows + 1,) int32: where the entries of each row begin
    items: Tensor  # (num_votes,) int32, ascending and distinct within a row
    data: Tensor  # (num_votes,) float32
    longest: int  # no row has more entries


class Events(NamedTuple):
    """The last events of a batch of histories."""

    rows: Tensor  # (batch, num_events) int32, the latest first; below 0 or not in the matrix: none
    weights: Tensor  # (num_events,) float32

    def votes(self, votes: Votes, items: Tensor) -> tuple[Tensor, Tensor]:
        """What every event votes for items, (batch, n) integers, and whether it votes.

        Returns:
            (batch, num_events, n) float32 and bool.
        """
        rows = self.rows.long()
        is_known = (rows >= 0) & (rows < len(votes.begins) - 1)
        rows = rows.masked_fill(~is_known, 0)
        begin, end = (votes.begins[at].long()[:, :, None] for at in (rows, rows + 1))
        count = (end - begin).masked_fill(~is_known[:, :, None], 0)
        found = count.new_zeros(*rows.shape, items.shape[1])
        last, wanted = max(len(votes.items) - 1, 0), items[:, None]
        for step in reversed(range(votes.longest.bit_length())):
            probe = found + (1 << step)
            other = votes.items[(begin + probe - 1).clamp(max=last)]
            found = torch.where((probe <= count) & (other < wanted), probe, found)
        at = (begin + found).clamp(max=last)
        is_vote = (found < count) & (votes.items[at] == wanted)
        weighted = self.weights[:, None] * votes.data[at]
        return weighted.masked_fill(~is_vote, 0), is_vote


def score_evidence_ref(votes: Votes, events: Events, items: Tensor) -> Tensor:
    """Defines the op, in plain PyTorch: no wait, static shapes. Same arguments."""
    scores = torch.zeros(items.shape, device=items.device)
    if len(votes.items):
        for vote in events.votes(votes, items)[0].unbind(1):
            scores = scores + vote
    return scores


def score_evidence(
    votes: Votes, events: Events, items: Tensor, *, backend: Backend = "auto"
) -> Tensor:
    """Sums what events vote for items.

    Args:
        votes: The matrix.
        events: At most 1024 per request.
        items: (batch, n) int32; one without votes, or below 0, has 0.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, n) float32.

    Raises:
        ValueError: A shape, a number, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    check_votes(votes, events, items.device)
    if items.ndim != 2:
        raise ValueError(f"items must be (batch, n), got {tuple(items.shape)}")
    check_tensor("items", items, (len(events.rows), items.shape[1]), (torch.int32,), items.device)
    if not use_triton(items, backend) or not items.numel() or not len(votes.items):
        return score_evidence_ref(votes, events, items)
    from store_engine.kernels.triton.score_evidence import launch_score_evidence

    return launch_score_evidence(votes, events, items)


def check_votes(votes: Votes, events: Events, device: torch.device) -> None:
    """Raises what an op promises of the matrix and the events."""
    if events.rows.ndim != 2 or not 0 < events.rows.shape[1] <= MAX_EVENTS:
        raise ValueError(
            f"events must be (batch, 1 to {MAX_EVENTS}), got {tuple(events.rows.shape)}"
        )
    if votes.longest < 0 or not len(votes.begins):
        raise ValueError(
            f"begins must be (num_rows + 1,) and longest not below 0, got {votes.longest}"
        )
    integers, floats = (torch.int32,), (torch.float32,)
    check_tensor("begins", votes.begins, (len(votes.begins),), integers, device)
    check_tensor("items of votes", votes.items, (len(votes.items),), integers, device)
    check_tensor("data", votes.data, votes.items.shape, floats, device)
    check_tensor("events", events.rows, events.rows.shape, integers, device)
    check_tensor("weights", events.weights, events.rows.shape[1:], floats, device)
