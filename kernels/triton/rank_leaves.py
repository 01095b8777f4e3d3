"""Triton kernel of `rank_leaves`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.trie_topk import Beams
from store_engine.kernels.triton.trie_select import _filter_of, _num_alive, filter_arguments


# fmt: off
@triton.jit(do_not_specialize=["width", "size", "num_words", "num_excluded", "num_steps"])
def _rank_leaves_kernel(
    scores_ptr, nodes_ptr, was_bad_ptr, leaf_begin_ptr, words_ptr, ranks_ptr, set_index_ptr,
    excluded_ptr, ranked_ptr, width, size, num_words, num_excluded, num_steps,
    FILTER: tl.constexpr, BLOCK: tl.constexpr,
):
    """One request; a tile of leaves at a time, then what is missing."""
    request = tl.program_id(0).to(tl.int64)
    scores_ptr += request * width
    nodes_ptr += request * width
    ranked_ptr += request * (2 * size + 1)
    request_set = tl.full((), -1, tl.int64)
    if FILTER:
        words_ptr, ranks_ptr, request_set, excluded_ptr = _filter_of(
            request, words_ptr, ranks_ptr, set_index_ptr, excluded_ptr, num_words, num_excluded
        )
    num_ranked = tl.full((), 0, tl.int64)
    for low in range(0, width, BLOCK):
        beam = low + tl.arange(0, BLOCK)
        leaf = tl.load(nodes_ptr + beam, beam < width, other=-1).to(tl.int64)
        is_leaf = leaf >= 0
        begin = tl.load(leaf_begin_ptr + leaf, is_leaf, other=0).to(tl.int64)
        end = tl.load(leaf_begin_ptr + leaf + 1, is_leaf, other=0).to(tl.int64)
        count = end - begin
        if FILTER:
            count = _num_alive(
                words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_steps, begin,
                end, is_leaf,
            )
        count = tl.where(is_leaf, count, 0)
        rank = num_ranked + tl.cumsum(count, 0) - count
        score = tl.load(scores_ptr + beam, is_leaf, other=0.0).to(tl.int32, bitcast=True)
        place = begin
        for _ in range(0, tl.max(end - begin).to(tl.int32)):
            is_item = (place < end) & (rank < size)
            if FILTER:
                is_item &= _num_alive(
                    words_ptr, ranks_ptr, request_set, excluded_ptr, num_excluded, num_steps,
                    place, place + 1, is_item,
                ) > 0
            tl.store(ranked_ptr + rank, score, is_item)
            tl.store(ranked_ptr + size + rank, place.to(tl.int32), is_item)
            rank += is_item.to(tl.int64)
            place += 1
        num_ranked += tl.sum(count)
    none = tl.full([BLOCK], float("-inf"), tl.float32).to(tl.int32, bitcast=True)
    for low in range(0, size, BLOCK):
        at = low + tl.arange(0, BLOCK)
        is_none = (at >= num_ranked) & (at < size)
        tl.store(ranked_ptr + at, none, is_none)
        tl.store(ranked_ptr + size + at, tl.full([BLOCK], -1, tl.int32), is_none)
    tl.store(ranked_ptr + 2 * size, tl.load(was_bad_ptr + request).to(tl.int32))
# fmt: on


def _launch_config() -> dict[str, int]:
    return {"BLOCK": 128, "num_warps": 4}


def launch_rank_leaves(
    beams: Beams, leaf_begin: Tensor, size: int, filter: Filter | None
) -> Tensor:
    """Does what `rank_leaves` does, for arguments that it has checked; there are beams."""
    batch, width = beams.nodes.shape
    ranked = beams.nodes.new_empty(batch, 2 * size + 1, dtype=torch.int32)
    arrays, sizes = filter_arguments(filter, leaf_begin)
    with device_guard(ranked):
        _rank_leaves_kernel[(batch,)](
            beams.scores,
            beams.nodes,
            beams.is_bad.view(torch.uint8),
            leaf_begin,
            *arrays[:-1],
            ranked,
            width,
            size,
            *sizes,
            FILTER=filter is not None,
            **_launch_config(),
        )
    return ranked
