"""The items that the events of a history vote for most, by a sparse item-item matrix.

The scores are those of score_evidence.py; of equals the lower row is first, as in the C++ core.
Candidates are the entries of the events' rows. An item that several events vote for stands in
several rows: the latest event's entry counts, the others are passed over. Two launches: a 64-bit
key (score, then lower row) for every entry, in parallel; then each request's largest keys by radix,
as in trie_select.py. Nothing waits, no shape depends on values, and no tensor of all items exists.
Ours.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._checks import check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.score_evidence import Events, Votes, check_votes
from store_engine.kernels.trie_select import NOTHING, Filter, check_filter, pack


class Candidates(NamedTuple):
    """Items of each request, best first."""

    rows: Tensor  # (batch, k) int32 rows of the matrix; -1 for none
    places: Tensor  # (batch, k) int32, where they stand; -1 for none


def top_evidence_ref(
    votes: Votes, events: Events, place_of_row: Tensor, k: int, *, filter: Filter | None = None
) -> Candidates:
    """Defines the op, in plain PyTorch: no wait, static shapes. Same arguments."""
    (batch, num_events), longest = events.rows.shape, max(votes.longest, 1)
    if not len(votes.items):
        nothing = events.rows.new_full((batch, k), -1)
        return Candidates(nothing, nothing)
    rows = events.rows.long()
    is_known = (rows >= 0) & (rows < len(votes.begins) - 1)
    rows = rows.masked_fill(~is_known, 0)
    begin, end = (votes.begins[at].long()[:, :, None] for at in (rows, rows + 1))
    at = begin + torch.arange(longest, device=begin.device)
    is_entry = ((at < end) & is_known[:, :, None]).flatten(1)
    item = votes.items[at.clamp(max=len(votes.items) - 1)].flatten(1)
    vote, is_vote = events.votes(votes, item)
    score = torch.zeros_like(vote[:, 0])
    for one in vote.unbind(1):
        score = score + one
    own = torch.arange(num_events, device=begin.device).repeat_interleave(longest)
    is_later = torch.arange(num_events, device=begin.device)[:, None] < own
    is_first = ~(is_vote & is_later).any(1)
    place = place_of_row[item.clamp(max=len(place_of_row) - 1)]
    is_one = is_entry & is_first & (place >= 0) & (item < len(place_of_row))
    if filter is not None:
        place = place.clamp(min=0)
        is_one = is_one & (filter.num_alive(place, place + 1) > 0)
    keys = pack(score, item.long()).masked_fill(~is_one, NOTHING)
    top = F.pad(keys, (0, k), value=NOTHING).topk(k, dim=1).values
    is_none = top == NOTHING
    found = (0xFFFFFFFF - (top & 0xFFFFFFFF)).masked_fill(is_none, 0)
    places = place_of_row[found].masked_fill(is_none, -1)
    return Candidates(found.masked_fill(is_none, -1).int(), places)


def top_evidence(
    votes: Votes,
    events: Events,
    place_of_row: Tensor,
    k: int,
    *,
    filter: Filter | None = None,
    backend: Backend = "auto",
) -> Candidates:
    """Finds the items that events vote for most.

    Args:
        votes: The matrix; of finite numbers.
        events: At most 1024 per request.
        place_of_row: (num_rows,) int32, where each item stands in SID order; -1: it is not there,
            nor are the items behind the last.
        k: Items wanted, at least 1.
        filter: What each request may be given; `item_begin` is not read. None: everything.
        backend: See `_dispatch.choose_backend`.

    Raises:
        ValueError: A shape, a number, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    device = events.rows.device
    check_votes(votes, events, device)
    check_tensor("place_of_row", place_of_row, (len(place_of_row),), (torch.int32,), device)
    if k < 1 or not len(place_of_row):
        raise ValueError(f"k must be at least 1 and there must be places, got {k}")
    if filter is not None:
        check_filter(filter, len(events.rows), len(filter.item_begin) - 1, device)
    if not use_triton(events.rows, backend) or not len(events.rows) or not len(votes.items):
        return top_evidence_ref(votes, events, place_of_row, k, filter=filter)
    from store_engine.kernels.triton.top_evidence import launch_top_evidence

    return launch_top_evidence(votes, events, place_of_row, k, filter)
