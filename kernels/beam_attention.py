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

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._dispatch import Backend, use_triton
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
    from store_engine.kernels.triton.beam_attention import launch_beam_attention

    return launch_beam_attention(q, keys, values, context_lengths, tree_mask)
