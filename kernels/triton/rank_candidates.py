"""Triton kernel of `rank_candidates`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.triton.trie_select import _rank_among
from store_engine.kernels.triton.trie_topk import _NOTHING, _pack


# fmt: off
@triton.jit(do_not_specialize=["num_found", "num_items"])
def _rank_candidates_kernel(
    logprobs_ptr, evidence_ptr, places_ptr, was_bad_ptr, kept_keys_ptr, ranked_ptr, num_found,
    num_items, BLOCK_R: tl.constexpr,
):
    """One request; kept_keys (batch, num_items) holds the items' keys."""
    request = tl.program_id(0).to(tl.int64)
    logprobs_ptr += request * num_items
    evidence_ptr += request * num_items
    places_ptr += request * num_items
    kept_keys_ptr += request * num_items
    ranked_ptr += request * (3 * num_items + 1)
    is_bad = tl.load(was_bad_ptr + request).to(tl.int32)
    num_kept = tl.full((), 0, tl.int32)
    for low in range(0, num_items, BLOCK_R):
        slot = low + tl.arange(0, BLOCK_R)
        is_item = slot < num_items
        place = tl.load(places_ptr + slot, is_item, other=-1)
        logprob = tl.load(logprobs_ptr + slot, is_item, other=float("-inf"))
        evidence = tl.load(evidence_ptr + slot, is_item, other=0.0)
        is_bad |= tl.max(((place >= 0) & (logprob != logprob)).to(tl.int32))
        num_equal = tl.zeros([BLOCK_R], tl.int32)
        for begin in range(0, num_found, BLOCK_R):
            other = begin + tl.arange(0, BLOCK_R)
            rival = tl.load(places_ptr + other, other < num_found, other=-1)
            its = tl.load(logprobs_ptr + other, other < num_found, other=float("-inf"))
            rival = tl.where(its > float("-inf"), rival, -1)
            num_equal += tl.sum((rival[None, :] == place[:, None]).to(tl.int32), 1)
        is_one = (place >= 0) & (logprob > float("-inf")) & ((slot < num_found) | (num_equal == 0))
        key = tl.where(is_one, _pack(logprob + evidence, place.to(tl.int64)), _NOTHING)
        tl.store(kept_keys_ptr + slot, key, is_item)
        num_kept += tl.sum(is_one.to(tl.int32))
    tl.debug_barrier()  # from here on a thread reads what others wrote

    for low in range(0, num_items, BLOCK_R):
        slot = low + tl.arange(0, BLOCK_R)
        key = tl.load(kept_keys_ptr + slot, slot < num_items, other=_NOTHING)
        is_one = key != _NOTHING
        out = _rank_among(kept_keys_ptr, num_items, key, BLOCK_R)
        logprob = tl.load(logprobs_ptr + slot, is_one, other=0.0).to(tl.int32, bitcast=True)
        evidence = tl.load(evidence_ptr + slot, is_one, other=0.0).to(tl.int32, bitcast=True)
        place = tl.load(places_ptr + slot, is_one, other=-1)
        tl.store(ranked_ptr + out, logprob, is_one)
        tl.store(ranked_ptr + num_items + out, evidence, is_one)
        tl.store(ranked_ptr + 2 * num_items + out, place, is_one)
    none = tl.full([BLOCK_R], float("-inf"), tl.float32).to(tl.int32, bitcast=True)
    for low in range(0, num_items, BLOCK_R):
        slot = low + tl.arange(0, BLOCK_R)
        is_none = (slot >= num_kept) & (slot < num_items)
        tl.store(ranked_ptr + slot, none, is_none)
        tl.store(ranked_ptr + num_items + slot, tl.zeros([BLOCK_R], tl.int32), is_none)
        tl.store(ranked_ptr + 2 * num_items + slot, tl.full([BLOCK_R], -1, tl.int32), is_none)
    tl.store(ranked_ptr + 3 * num_items, is_bad)
# fmt: on


def _launch_config() -> dict[str, int]:
    return {"BLOCK_R": 64, "num_warps": 4}


def launch_rank_candidates(
    logprobs: Tensor, evidence: Tensor, places: Tensor, was_bad: Tensor, num_found: int
) -> Tensor:
    """Does what `rank_candidates` does, for arguments that it has checked; there are items."""
    batch, num_items = logprobs.shape
    kept_keys = places.new_empty(batch, num_items, dtype=torch.int64)
    ranked = places.new_empty(batch, 3 * num_items + 1)
    with device_guard(logprobs):
        _rank_candidates_kernel[(batch,)](
            logprobs,
            evidence,
            places,
            was_bad.view(torch.uint8),
            kept_keys,
            ranked,
            num_found,
            num_items,
            **_launch_config(),
        )
    return ranked
