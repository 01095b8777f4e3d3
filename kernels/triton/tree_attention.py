"""Triton kernel of `tree_attention`: each split's share of the softmax, and their merge."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import MIN_PROGRAMS, device_guard
from store_engine.kernels.tree_attention import BeamTree
from store_engine.kernels.triton import beam_attention
from store_engine.kernels.triton.beam_attention import _attend_tile


# fmt: off
@triton.jit
def _attend_ancestor(
    q, acc, peak, total, keys_ptr, values_ptr, slot, is_seen, dim, is_dim, stride_slot, scale,
):
    """Online softmax over one slot of each query's own."""
    offsets = slot.to(tl.int64)[:, None] * stride_slot + dim[None, :]
    mask = is_seen[:, None] & is_dim[None, :]
    k = tl.load(keys_ptr + offsets, mask, other=0.0).to(tl.float32)
    v = tl.load(values_ptr + offsets, mask, other=0.0).to(tl.float32)
    logit = tl.where(is_seen, tl.sum(q.to(tl.float32) * k, 1) * scale, float("-inf"))
    new_peak = tl.maximum(peak, logit)
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    prob, decay = tl.exp(logit - shift), tl.exp(peak - shift)
    return acc * decay[:, None] + prob[:, None] * v, new_peak, total * decay + prob


@triton.jit
def _merge_splits(
    out_ptr, part_ptr, lse_ptr, row, is_row, num_rows, num_splits, head_dim,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """Some rows of the result: the means of their splits, weighted by exp(lse), in their order.

    Other programs wrote them: they are read past the cache that is this one's alone.
    """
    dim = tl.arange(0, BLOCK_D)
    mask = is_row[:, None] & (dim < head_dim)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for split in range(0, num_splits):
        at = row + num_rows.to(tl.int64) * split
        lse = tl.load(lse_ptr + at, is_row, other=float("-inf"), cache_modifier=".cg")
        part_ptrs = part_ptr + at[:, None] * head_dim + dim[None, :]
        part = tl.load(part_ptrs, mask, other=0.0, cache_modifier=".cg")
        new_peak = tl.maximum(peak, lse)
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        share, decay = tl.exp(lse - shift), tl.exp(peak - shift)
        acc = acc * decay[:, None] + share[:, None] * part
        total, peak = total * decay + share, new_peak
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + row[:, None] * head_dim + dim[None, :], out, mask)


@triton.jit(
    do_not_specialize=[
        "width", "first", "depth", "tree_begin", "num_tree", "split_size", "num_splits", "num_rows"
    ]
)
def _tree_attention_kernel(
    q_ptr, keys_ptr, values_ptr, context_lengths_ptr, parents_ptr, out_ptr, part_ptr, lse_ptr,
    counters_ptr, width, num_heads, head_dim, tree_begin, num_tree, first, depth, split_size,
    num_splits, num_rows, stride_batch, stride_slot, scale,
    SPLIT: tl.constexpr, GROUP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):
    """Queries that share a key head, on one part of the context; the last one on the tree too.

    part is (num_splits, num_rows, head_dim), normalised; lse (num_splits, num_rows).
    """
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    num_tiles = tl.cdiv(width * GROUP, BLOCK_Q)
    split = tl.program_id(2) // num_tiles
    query = tl.program_id(2) % num_tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    beam = query // GROUP
    is_query = beam < width
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < head_dim
    row = (request * width + beam) * num_heads + kv_head * GROUP + query % GROUP
    io_mask = is_query[:, None] & is_dim[None, :]
    q = tl.load(q_ptr + row[:, None] * head_dim + dim[None, :], io_mask, other=0.0)
    keys_ptr += request * stride_batch + kv_head * head_dim
    values_ptr += request * stride_batch + kv_head * head_dim
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)

    stop = tl.minimum(tl.load(context_lengths_ptr + request).to(tl.int32), (split + 1) * split_size)
    for low in range(split * split_size, stop, BLOCK_S):
        slot = low + tl.arange(0, BLOCK_S)
        is_slot = slot < stop
        acc, peak, total = _attend_tile(
            q, acc, peak, total, keys_ptr, values_ptr, slot, is_slot, is_slot[None, :], dim,
            is_dim, stride_slot, scale, PRECISION,
        )
    if split == num_splits - 1:
        slot = tl.where(is_query, first + beam, -1)
        for _ in range(0, depth):
            acc, peak, total = _attend_ancestor(
                q, acc, peak, total, keys_ptr, values_ptr, tree_begin + slot, slot >= 0, dim,
                is_dim, stride_slot, scale,
            )
            slot = tl.load(parents_ptr + request * num_tree + slot, slot >= 0, other=-1)

    total = tl.where(total == 0.0, 1.0, total)
    acc /= total[:, None]
    if SPLIT:
        at = row + split.to(tl.int64) * num_rows
        tl.store(part_ptr + at[:, None] * head_dim + dim[None, :], acc, io_mask)
        tl.store(lse_ptr + at, peak + tl.log(total), is_query)
        tl.debug_barrier()  # all threads have written before one counts
        tile = (request * tl.num_programs(1) + kv_head) * num_tiles + tl.program_id(2) % num_tiles
        num_done = tl.atomic_add(counters_ptr + tile, 1, sem="acq_rel", scope="gpu")
        if num_done == num_splits - 1:
            tl.store(counters_ptr + tile, 0)
            for low in range(0, BLOCK_Q, BLOCK_M):  # all at once would not fit the registers
                some = tl.program_id(2) % num_tiles * BLOCK_Q + low + tl.arange(0, BLOCK_M)
                its_row = (request * width + some // GROUP) * num_heads + kv_head * GROUP
                _merge_splits(
                    out_ptr, part_ptr, lse_ptr, its_row + some % GROUP, some // GROUP < width,
                    num_rows, num_splits, head_dim, BLOCK_M, BLOCK_D,
                )
    else:
        tl.store(out_ptr + row[:, None] * head_dim + dim[None, :], acc, io_mask)
# fmt: on


def _launch_config(dtype: torch.dtype, num_queries: int, head_dim: int) -> dict[str, Any]:
    """The tiles of `beam_attention`, by 8 warps, and fewer queries where heads are wide.

    By 4 warps those of the gathered slots spill, and 64 queries of 128 columns do by 8.
    """
    tiles = beam_attention._launch_config(dtype, num_queries, head_dim)
    block_q = min(tiles["BLOCK_Q"], 32 if tiles["BLOCK_D"] > 64 else 64)
    return {**tiles, "BLOCK_Q": block_q, "BLOCK_M": 16, "num_warps": 8}


def _num_splits(num_programs: int, num_slots: int, block: int) -> int:
    """Splits of a context of `num_slots` that let `num_programs` of each fill a GPU."""
    wanted = triton.cdiv(MIN_PROGRAMS, num_programs)
    return max(min(wanted, triton.cdiv(num_slots, block)), 1)


def launch_tree_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    tree: BeamTree,
    counters: Tensor | None,
) -> Tensor:
    """Does what `tree_attention` does, for arguments that it has checked; there are queries."""
    batch, width, num_heads, head_dim = q.shape
    num_slots, num_kv_heads = keys.shape[1:3]
    num_tree = tree.parents.shape[1]
    tree_begin, group = num_slots - num_tree, num_heads // num_kv_heads
    config = _launch_config(q.dtype, width * group, head_dim)
    num_tiles = triton.cdiv(width * group, config["BLOCK_Q"])
    num_splits = _num_splits(batch * num_kv_heads * num_tiles, tree_begin, config["BLOCK_S"])
    split_size = triton.cdiv(tree_begin, num_splits * config["BLOCK_S"]) * config["BLOCK_S"]
    out, num_rows = torch.empty_like(q), batch * width * num_heads
    part, lse = out, out  # not used, as are the counters, by one split
    if num_splits == 1:
        counters = context_lengths
    else:
        part = q.new_empty(num_splits, *q.shape, dtype=torch.float32)
        lse = q.new_empty(num_splits, num_rows, dtype=torch.float32)
        if counters is None:
            counters = q.new_zeros(batch * num_kv_heads * num_tiles, dtype=torch.int32)
    with device_guard(q):
        _tree_attention_kernel[(batch, num_kv_heads, num_splits * num_tiles)](
            q,
            keys,
            values,
            context_lengths,
            tree.parents,
            out,
            part,
            lse,
            counters,
            width,
            num_heads,
            head_dim,
            tree_begin,
            num_tree,
            tree.first,
            tree.depth,
            split_size,
            num_splits,
            num_rows,
            *keys.stride()[:2],
            head_dim**-0.5,
            SPLIT=num_splits > 1,
            GROUP=group,
            **config,
        )
    return out
