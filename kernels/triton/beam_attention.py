"""Triton kernel of `beam_attention`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard


# fmt: off
@triton.jit
def _attend_tile(
    q, acc, peak, total, keys_ptr, values_ptr, slot, is_slot, is_seen, dim, is_dim, stride_slot,
    scale, PRECISION: tl.constexpr,
):
    """Online softmax over one tile of slots; `is_seen` broadcasts to (queries, slots)."""
    offsets = slot.to(tl.int64)[:, None] * stride_slot + dim[None, :]
    mask = is_slot[:, None] & is_dim[None, :]
    k = tl.load(keys_ptr + offsets, mask, other=0.0)
    v = tl.load(values_ptr + offsets, mask, other=0.0)
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    logits = tl.where(is_seen, logits, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(logits, 1))
    shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    probs = tl.exp(logits - shift[:, None])
    decay = tl.exp(peak - shift)
    acc = acc * decay[:, None] + tl.dot(probs.to(v.dtype), v, input_precision=PRECISION)
    return acc, new_peak, total * decay + tl.sum(probs, 1)


@triton.jit(do_not_specialize=["width", "num_context", "num_tree"])
def _beam_attention_kernel(
    q_ptr, keys_ptr, values_ptr, context_lengths_ptr, tree_mask_ptr, out_ptr, width, num_heads,
    head_dim, num_context, num_tree, stride_batch, stride_slot, scale,
    GROUP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    query = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    beam = query // GROUP
    is_query = beam < width
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < head_dim
    row = (request * width + beam) * num_heads + kv_head * GROUP + query % GROUP
    io_offsets = row[:, None] * head_dim + dim[None, :]
    io_mask = is_query[:, None] & is_dim[None, :]
    q = tl.load(q_ptr + io_offsets, io_mask, other=0.0)
    keys_ptr += request * stride_batch + kv_head * head_dim
    values_ptr += request * stride_batch + kv_head * head_dim
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    length = tl.load(context_lengths_ptr + request).to(tl.int32)
    for first in range(0, length, BLOCK_S):
        slot = first + tl.arange(0, BLOCK_S)
        is_slot = slot < length
        acc, peak, total = _attend_tile(
            q, acc, peak, total, keys_ptr, values_ptr, slot, is_slot, is_slot[None, :], dim,
            is_dim, stride_slot, scale, PRECISION,
        )
    tree_mask_ptr += request * width * num_tree
    for first in range(0, num_tree, BLOCK_S):
        slot = first + tl.arange(0, BLOCK_S)
        is_slot = slot < num_tree
        is_seen = tl.load(
            tree_mask_ptr + beam[:, None] * num_tree + slot[None, :],
            is_query[:, None] & is_slot[None, :], other=0,
        )
        acc, peak, total = _attend_tile(
            q, acc, peak, total, keys_ptr, values_ptr, num_context + slot, is_slot, is_seen != 0,
            dim, is_dim, stride_slot, scale, PRECISION,
        )
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + io_offsets, out, io_mask)
# fmt: on


def _launch_config(dtype: torch.dtype, num_queries: int, head_dim: int) -> dict[str, Any]:
    """Tiles that spill no register on sm_80, sm_90 and gfx942 (results/kernels_resources.csv).

    Neither under Triton 3.6 nor 3.9; 32 float32 queries do under 3.6.
    """
    block_d = max(triton.next_power_of_2(head_dim), 16)
    is_float32 = dtype is torch.float32
    block_q, block_s = (16, 32) if is_float32 else (64, 64)
    return {
        "BLOCK_Q": min(max(triton.next_power_of_2(num_queries), 16), block_q),
        "BLOCK_S": block_s,
        "BLOCK_D": block_d,
        "PRECISION": "ieee",  # plays no part in half precision
        "num_warps": 8 if is_float32 or block_d > 64 else 4,
        "num_stages": 2,
    }


def launch_beam_attention(
    q: Tensor, keys: Tensor, values: Tensor, context_lengths: Tensor, tree_mask: Tensor
) -> Tensor:
    """Does what `beam_attention` does, for arguments that it has checked; there are queries."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    batch, width, num_heads, head_dim = q.shape
    num_slots, num_kv_heads = keys.shape[1:3]
    num_tree = tree_mask.shape[2]
    group = num_heads // num_kv_heads
    config = _launch_config(q.dtype, width * group, head_dim)
    grid = (batch, num_kv_heads, triton.cdiv(width * group, config["BLOCK_Q"]))
    with device_guard(q):
        _beam_attention_kernel[grid](
            q.contiguous(),
            keys,
            values,
            context_lengths.contiguous(),
            tree_mask.contiguous(),
            out,
            width,
            num_heads,
            head_dim,
            num_slots - num_tree,
            num_tree,
            *keys.stride()[:2],
            head_dim**-0.5,
            GROUP=group,
            **config,
        )
    return out
