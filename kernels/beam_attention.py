"""Decode attention of a block of beams: the request's context, and the beam tree's own slots.

    out = softmax(q k^T / sqrt(head_dim), over the slots that the beam sees) v

All beams of a request share its context, which stands in the cache once; a tree slot is seen by the
beams that descend from it. One program takes the query rows of one request that share a key head,
so that keys and values are read once for all beams and all query heads of the group; it walks over
the real context, then over the tree with its mask, with one online softmax across both. Unequal
contexts cost no padding. Memory-bound, on the context's keys and values. No backward: decode only.
Source: Dao et al. 2022 (FlashAttention), https://arxiv.org/abs/2205.14135; Juravsky et al. 2024
(Hydragen, shared prefixes), https://arxiv.org/abs/2402.05099.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import Backend, device_guard, use_triton
from store_engine.kernels.grouped_heads import fold_heads, unfold_heads


def beam_attention_ref(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    tree_mask: Tensor,
) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `beam_attention`."""
    is_visible = visible_slots(keys.shape[1], context_lengths, tree_mask)
    bias = visibility_bias(is_visible, q.shape[2] // keys.shape[2], q.dtype)
    out = attend_with_bias(q, keys, values, bias)
    # a beam that sees nothing gets 0, not NaN
    return out.masked_fill(~is_visible.any(-1)[:, :, None, None], 0.0)


def visible_slots(num_slots: int, context_lengths: Tensor, tree_mask: Tensor) -> Tensor:
    """Returns (batch, width, num_slots) bool: which slots each beam sees."""
    num_context = num_slots - tree_mask.shape[2]
    is_context = torch.arange(num_context, device=tree_mask.device) < context_lengths[:, None]
    return torch.cat([is_context[:, None].expand(-1, tree_mask.shape[1], -1), tree_mask], dim=2)


def visibility_bias(is_visible: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Makes the bias of `attend_with_bias`, once for all layers.

    Args:
        is_visible: (batch, length, num_slots) bool, the slots that each query sees.
        group: Query heads per key head.
        dtype: Dtype of the queries.

    Returns:
        (batch, 1, group * length, num_slots), 0 where a query sees a slot, else -inf.
    """
    bias = torch.zeros_like(is_visible, dtype=dtype).masked_fill_(~is_visible, -torch.inf)
    return bias[:, None].repeat(1, 1, group, 1)


def attend_with_bias(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attends from queries to the slots of a cache, in plain PyTorch.

    Args:
        q: (batch, length, num_heads, head_dim).
        keys: (batch, num_slots, num_kv_heads, head_dim); every number must be finite.
        values: Like `keys`.
        bias: See `visibility_bias`; added to the scaled inner products.

    Returns:
        (batch, length, num_heads, head_dim); NaN for a query that sees nothing.
    """
    rows = fold_heads(q, keys.shape[2])
    out = F.scaled_dot_product_attention(
        rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=bias
    )
    return unfold_heads(out, q.shape[1])


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


@triton.jit
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


def beam_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    tree_mask: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Attends from each beam to its request's context and to its own ancestors.

    Args:
        q: (batch, width, num_heads, head_dim), float32, float16 or bfloat16.
        keys: (batch, num_slots, num_kv_heads, head_dim), contexts first, from slot 0, then the
            num_tree slots of the beam tree. The last two dimensions are contiguous. What no beam
            sees must be finite.
        values: Like `keys`, of the same strides.
        context_lengths: (batch,) integers, the slots of each context that are real.
        tree_mask: (batch, width, num_tree) bool, the tree slots each beam sees, its own included.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, width, num_heads, head_dim), the dtype of `q`; 0 for a beam that sees nothing.

    Raises:
        ValueError: A shape or a stride does not fit.
    """
    batch, width, num_heads, head_dim = q.shape
    num_slots, num_kv_heads = keys.shape[1:3]
    num_tree = tree_mask.shape[2]
    if keys.shape != (batch, num_slots, num_kv_heads, head_dim) or values.shape != keys.shape:
        raise ValueError(
            f"keys and values must be ({batch}, num_slots, num_kv_heads, {head_dim}), "
            f"got {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} must be a multiple of num_kv_heads {num_kv_heads}")
    if tree_mask.shape != (batch, width, num_tree) or num_tree > num_slots:
        raise ValueError(
            f"tree_mask must be ({batch}, {width}, num_tree <= {num_slots}), "
            f"got {tuple(tree_mask.shape)}"
        )
    if context_lengths.shape != (batch,):
        raise ValueError(f"context_lengths must be ({batch},), got {tuple(context_lengths.shape)}")
    if not q.numel():
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    if not use_triton(q, backend):
        return beam_attention_ref(q, keys, values, context_lengths, tree_mask)

    if keys.stride() != values.stride() or keys.stride()[2:] != (head_dim, 1):
        raise ValueError(
            "keys and values must have equal strides and contiguous heads, "
            f"got {keys.stride()} and {values.stride()}"
        )
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
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
