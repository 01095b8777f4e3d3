"""Triton kernels of `tree_attention`: each split's share of the softmax, and their merge."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import MIN_PROGRAMS, device_guard
from store_engine.kernels.triton.beam_attention import _attend_tile, _launch_config


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


@triton.jit(do_not_specialize=["width", "tree_begin", "depth", "split_size", "num_rows"])
def _tree_attention_split_kernel(
    q_ptr, keys_ptr, values_ptr, context_lengths_ptr, ancestors_ptr, part_ptr, lse_ptr, width,
    num_heads, head_dim, tree_begin, depth, split_size, num_rows, stride_batch, stride_slot, scale,
    GROUP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
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
    for first in range(split * split_size, stop, BLOCK_S):
        slot = first + tl.arange(0, BLOCK_S)
        is_slot = slot < stop
        acc, peak, total = _attend_tile(
            q, acc, peak, total, keys_ptr, values_ptr, slot, is_slot, is_slot[None, :], dim,
            is_dim, stride_slot, scale, PRECISION,
        )
    if (split + 1) * num_tiles == tl.num_programs(2):
        own_ptrs = ancestors_ptr + (request * width + beam) * depth
        for i in range(0, depth):
            slot = tl.load(own_ptrs + i, is_query, other=-1)
            acc, peak, total = _attend_ancestor(
                q, acc, peak, total, keys_ptr, values_ptr, tree_begin + slot, slot >= 0, dim,
                is_dim, stride_slot, scale,
            )

    row += split.to(tl.int64) * num_rows
    total = tl.where(total == 0.0, 1.0, total)
    part_ptrs = part_ptr + row[:, None] * head_dim + dim[None, :]
    tl.store(part_ptrs, acc / total[:, None], io_mask)
    tl.store(lse_ptr + row, peak + tl.log(total), is_query)


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _tree_attention_merge_kernel(
    part_ptr, lse_ptr, out_ptr, num_rows, num_splits, head_dim,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """One row of the result: the mean of its splits, weighted by exp(lse)."""
    row = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < head_dim
    acc = tl.zeros([BLOCK_D], tl.float32)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(0, num_splits, BLOCK_N):
        split = first + tl.arange(0, BLOCK_N)
        is_split = split < num_splits
        at = split.to(tl.int64) * num_rows + row
        lse = tl.load(lse_ptr + at, is_split, other=float("-inf"))
        mask = is_split[:, None] & is_dim[None, :]
        part = tl.load(part_ptr + at[:, None] * head_dim + dim[None, :], mask, other=0.0)
        new_peak = tl.maximum(peak, tl.max(lse))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        share, decay = tl.exp(lse - shift), tl.exp(peak - shift)
        acc = acc * decay + tl.sum(share[:, None] * part, 0)
        total = total * decay + tl.sum(share)
        peak = new_peak
    out = acc / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + row * head_dim + dim, out, is_dim)
# fmt: on


def _split_config(dtype: torch.dtype, num_queries: int, head_dim: int) -> dict[str, Any]:
    """The tiles of `beam_attention`, by 8 warps: by 4, those of the gathered slots spill."""
    return {**_launch_config(dtype, num_queries, head_dim), "num_warps": 8}


def _merge_config(head_dim: int) -> dict[str, int]:
    return {"BLOCK_N": 16, "BLOCK_D": triton.next_power_of_2(head_dim), "num_warps": 4}


def _num_splits(num_programs: int, num_slots: int, block: int) -> int:
    """Splits of a context of `num_slots` that let `num_programs` of each fill a GPU."""
    wanted = triton.cdiv(MIN_PROGRAMS, num_programs)
    return max(min(wanted, triton.cdiv(num_slots, block)), 1)


def launch_tree_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    ancestors: Tensor,
    tree_begin: int,
) -> Tensor:
    """Does what `tree_attention` does, for arguments that it has checked; there are queries."""
    batch, width, num_heads, head_dim = q.shape
    num_kv_heads = keys.shape[2]
    group = num_heads // num_kv_heads
    config = _split_config(q.dtype, width * group, head_dim)
    num_tiles = triton.cdiv(width * group, config["BLOCK_Q"])
    num_splits = _num_splits(batch * num_kv_heads * num_tiles, tree_begin, config["BLOCK_S"])
    split_size = triton.cdiv(tree_begin, num_splits * config["BLOCK_S"]) * config["BLOCK_S"]
    out, num_rows = torch.empty_like(q), batch * width * num_heads
    part = out if num_splits == 1 else q.new_empty(num_splits, *q.shape, dtype=torch.float32)
    lse = q.new_empty(num_splits, num_rows, dtype=torch.float32)
    with device_guard(q):
        _tree_attention_split_kernel[(batch, num_kv_heads, num_splits * num_tiles)](
            q,
            keys,
            values,
            context_lengths,
            ancestors,
            part,
            lse,
            width,
            num_heads,
            head_dim,
            tree_begin,
            ancestors.shape[2],
            split_size,
            num_rows,
            *keys.stride()[:2],
            head_dim**-0.5,
            GROUP=group,
            **config,
        )
        if num_splits > 1:
            _tree_attention_merge_kernel[(num_rows,)](
                part, lse, out, num_rows, num_splits, head_dim, **_merge_config(head_dim)
            )
    return out
