"""Triton kernels of `top_evidence`: a key for every entry, and the best keys of each request."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.score_evidence import Events, Votes
from store_engine.kernels.top_evidence import Candidates
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.triton.score_evidence import (
    _look_up,
    _sum_in_order,
    launch_config,
    votes_arguments,
)
from store_engine.kernels.triton.trie_select import (
    _filter_of,
    _keep,
    _lowest_of_the_best,
    _num_alive,
    _rank_among,
    filter_arguments,
    top_config,
)
from store_engine.kernels.triton.trie_topk import _NOTHING, _pack


# fmt: off
@triton.jit(
    do_not_specialize=[
        "num_rows", "num_events", "num_steps", "longest", "num_places", "num_words", "num_excluded",
        "num_exclusion_steps",
    ]
)
def _top_evidence_keys_kernel(
    begins_ptr, vote_items_ptr, data_ptr, events_ptr, weights_ptr, place_of_row_ptr, words_ptr,
    ranks_ptr, set_index_ptr, excluded_ptr, entry_keys_ptr, num_rows, num_events, num_steps,
    longest, num_places, num_words, num_excluded, num_exclusion_steps,
    FILTER: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_I: tl.constexpr,
):
    """Some entries of one event; entry_keys is (batch, num_events, longest)."""
    request = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1)
    column = tl.program_id(2) * BLOCK_I + tl.arange(0, BLOCK_I)
    events_ptr += request * num_events
    entry_keys_ptr += (request * num_events + own) * longest
    row = tl.load(events_ptr + own)
    is_known = (row >= 0) & (row < num_rows)
    begin = tl.load(begins_ptr + row, is_known, other=0).to(tl.int64)
    end = tl.load(begins_ptr + row + 1, is_known, other=0).to(tl.int64)
    key = tl.full([BLOCK_I], _NOTHING, tl.int64)
    if begin + tl.program_id(2) * BLOCK_I < end:
        is_one = begin + column < end
        item = tl.load(vote_items_ptr + begin + column, is_one, other=-1)
        vote, is_vote = _look_up(
            begins_ptr, vote_items_ptr, data_ptr, events_ptr, weights_ptr, num_rows, num_events,
            num_steps, item, BLOCK_E,
        )
        is_later = tl.arange(0, BLOCK_E)[:, None] < own
        is_one &= tl.sum((is_vote & is_later).to(tl.int32), 0) == 0
        is_one &= item < num_places
        place = tl.load(place_of_row_ptr + item, is_one, other=-1).to(tl.int64)
        is_one &= place >= 0
        if FILTER:
            words_ptr, ranks_ptr, request_set, excluded_ptr = _filter_of(
                request, words_ptr, ranks_ptr, set_index_ptr, excluded_ptr, num_words, num_excluded
            )
            is_one &= _num_alive(
                words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_exclusion_steps,
                place, place + 1, is_one,
            ) > 0
        score = _sum_in_order(vote, num_events, BLOCK_E)
        key = tl.where(is_one, _pack(score, item.to(tl.int64)), _NOTHING)
    tl.store(entry_keys_ptr + column, key, column < longest)


@triton.jit(do_not_specialize=["num_keys", "k"])
def _top_evidence_best_kernel(
    entry_keys_ptr, place_of_row_ptr, kept_keys_ptr, kept_at_ptr, top_rows_ptr, top_places_ptr,
    num_keys, k, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr,
):
    """The best keys of one request, in order; kept_keys and kept_at, (batch, k), in any order."""
    request = tl.program_id(0).to(tl.int64)
    entry_keys_ptr += request * num_keys
    kept_keys_ptr += request * k
    kept_at_ptr += request * k
    lowest = _lowest_of_the_best(entry_keys_ptr, num_keys, k, BLOCK)
    num_kept = _keep(entry_keys_ptr, num_keys, lowest, kept_keys_ptr, kept_at_ptr, BLOCK)
    tl.debug_barrier()  # from here on a thread reads what others wrote
    for low in range(0, k, BLOCK_R):
        slot = low + tl.arange(0, BLOCK_R)
        is_one = slot < num_kept
        key = tl.load(kept_keys_ptr + slot, is_one, other=_NOTHING)
        rank = _rank_among(kept_keys_ptr, num_kept, key, BLOCK_R)
        row = tl.where(is_one, 0xFFFFFFFF - (key & 0xFFFFFFFF), -1)
        place = tl.load(place_of_row_ptr + row, is_one, other=-1)
        out = request * k + tl.where(is_one, rank, slot)
        tl.store(top_rows_ptr + out, row.to(tl.int32), slot < k)
        tl.store(top_places_ptr + out, place, slot < k)
# fmt: on


def launch_top_evidence(
    votes: Votes, events: Events, place_of_row: Tensor, k: int, filter: Filter | None
) -> Candidates:
    """Does what `top_evidence` does, for arguments that it has checked; there are votes."""
    (batch, num_events), longest = events.rows.shape, votes.longest
    new = events.rows.new_empty
    entry_keys = new(batch, num_events * longest, dtype=torch.int64)
    kept_keys, kept_at = new(batch, k, dtype=torch.int64), new(batch, k)
    found = Candidates(new(batch, k), new(batch, k))
    tensors, sizes = votes_arguments(votes, events)
    arrays, filter_sizes = filter_arguments(filter, place_of_row)
    config = launch_config(num_events)
    grid = batch, num_events, triton.cdiv(longest, config["BLOCK_I"])
    with device_guard(place_of_row):
        _top_evidence_keys_kernel[grid](
            *tensors,
            place_of_row,
            *arrays[:-1],
            entry_keys,
            *sizes,
            longest,
            len(place_of_row),
            *filter_sizes,
            FILTER=filter is not None,
            **config,
        )
        _top_evidence_best_kernel[(batch,)](
            entry_keys,
            place_of_row,
            kept_keys,
            kept_at,
            *found,
            num_events * longest,
            k,
            **top_config(),
        )
    return found
