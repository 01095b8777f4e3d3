"""Triton kernel of `score_evidence`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.score_evidence import Events, Votes

_ENTRIES = 512  # of a tile of events and items


# fmt: off
@triton.jit
def _look_up(
    begins_ptr, items_ptr, data_ptr, events_ptr, weights_ptr, num_rows, num_events, num_steps, item,
    BLOCK_E: tl.constexpr,
):
    """What each event votes for each item, and whether it votes: (events, items)."""
    event = tl.arange(0, BLOCK_E)
    is_event = event < num_events
    row = tl.load(events_ptr + event, is_event, other=-1)
    is_known = (row >= 0) & (row < num_rows)
    begin = tl.load(begins_ptr + row, is_known, other=0).to(tl.int64)
    end = tl.load(begins_ptr + row + 1, is_known, other=0).to(tl.int64)
    count = (end - begin).to(tl.int32)
    weight = tl.load(weights_ptr + event, is_event, other=0.0)
    found = tl.zeros_like(item)[None, :] + tl.zeros_like(count)[:, None]
    for i in range(0, num_steps):
        probe = found + (1 << (num_steps - 1 - i))
        is_inside = probe <= count[:, None]
        other = tl.load(items_ptr + begin[:, None] + probe - 1, is_inside, other=0)
        found = tl.where(is_inside & (other < item[None, :]), probe, found)
    is_inside = found < count[:, None]
    at = begin[:, None] + found
    is_vote = is_inside & (tl.load(items_ptr + at, is_inside, other=-1) == item[None, :])
    vote = tl.load(data_ptr + at, is_vote, other=0.0) * weight[:, None]
    return tl.where(is_vote, vote, 0.0), is_vote


@triton.jit
def _sum_in_order(vote, num_events, BLOCK_E: tl.constexpr):
    """The sum over events, one after the other: rounded as the core rounds it."""
    event = tl.arange(0, BLOCK_E)[:, None]
    total = tl.sum(tl.where(event == 0, vote, 0.0), 0)
    for n in range(1, num_events):
        total += tl.sum(tl.where(event == n, vote, 0.0), 0)
    return total


@triton.jit(do_not_specialize=["num_rows", "num_events", "num_steps", "num_items"])
def _score_evidence_kernel(
    begins_ptr, vote_items_ptr, data_ptr, events_ptr, weights_ptr, items_ptr, evidence_ptr,
    num_rows, num_events, num_steps, num_items, BLOCK_E: tl.constexpr, BLOCK_I: tl.constexpr,
):
    """A few items of one request."""
    request = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    is_item = column < num_items
    item = tl.load(items_ptr + request * num_items + column, is_item, other=-1)
    vote, _ = _look_up(
        begins_ptr, vote_items_ptr, data_ptr, events_ptr + request * num_events, weights_ptr,
        num_rows, num_events, num_steps, item, BLOCK_E,
    )
    total = _sum_in_order(vote, num_events, BLOCK_E)
    tl.store(evidence_ptr + request * num_items + column, total, is_item)
# fmt: on


def launch_config(num_events: int) -> dict[str, Any]:
    """All events and as many items as a tile holds; products and sums are rounded each."""
    block_e = triton.next_power_of_2(num_events)
    block_i = max(_ENTRIES // block_e, 1)
    return {"BLOCK_E": block_e, "BLOCK_I": block_i, "num_warps": 4, "enable_fp_fusion": False}


def votes_arguments(votes: Votes, events: Events) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """What a kernel is given of the matrix and the events: tensors, and rows, events and steps."""
    tensors = votes.begins, votes.items, votes.data, events.rows, events.weights
    num_events = events.rows.shape[1]
    return tensors, (len(votes.begins) - 1, num_events, votes.longest.bit_length())


def launch_score_evidence(votes: Votes, events: Events, items: Tensor) -> Tensor:
    """Does what `score_evidence` does, for arguments that it has checked; there are items."""
    batch, num_items = items.shape
    evidence = items.new_empty(batch, num_items, dtype=torch.float32)
    tensors, sizes = votes_arguments(votes, events)
    config = launch_config(sizes[1])
    with device_guard(items):
        _score_evidence_kernel[(batch, triton.cdiv(num_items, config["BLOCK_I"]))](
            *tensors, items, evidence, *sizes, num_items, **config
        )
    return evidence
