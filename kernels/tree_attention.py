"""Decode attention of a block of beams, by the list of each beam's ancestors.

    out = softmax(q k^T / sqrt(head_dim), over the context and the beam's ancestors) v

The op of beam_attention.py for a cache of fixed size, as a CUDA graph needs it: the slots of the
tree are gathered, a few for each beam, instead of walking over all of them with a mask; and the
context is split among programs (split-KV), so that a batch of one fills a GPU. How many splits
there are follows from shapes alone. Each split's share of the softmax is then merged; where one
split is enough there is no second launch. Memory-bound, on the context's keys and values; slots
past a context's length are not read. No backward: decode only.
Source: Dao et al. 2023 (Flash-Decoding), https://pytorch.org/blog/flash-decoding; Juravsky et al.
2024 (Hydragen, shared prefixes), https://arxiv.org/abs/2402.05099.
"""

import torch
from torch import Tensor

from store_engine.kernels._checks import FLOATS, INTEGERS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.beam_attention import beam_attention_ref


def tree_attention_ref(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    ancestors: Tensor,
    tree_begin: int,
) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `tree_attention`."""
    num_tree = keys.shape[1] - tree_begin
    at = ancestors.long().masked_fill(ancestors < 0, num_tree)  # one more takes what is none
    tree_mask = at.new_zeros(*at.shape[:2], num_tree + 1, dtype=torch.bool).scatter_(2, at, True)
    return beam_attention_ref(q, keys, values, context_lengths, tree_mask[:, :, :-1])


def tree_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    ancestors: Tensor,
    tree_begin: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Attends from each beam to its request's context and to its own ancestors.

    Args:
        q: (batch, width, num_heads, head_dim), float32, float16 or bfloat16, contiguous.
        keys: (batch, num_slots, num_kv_heads, head_dim), the dtype of `q`: contexts first, from
            slot 0, then, from `tree_begin`, the beam tree. The last two dimensions are contiguous.
            Every number must be finite.
        values: Like `keys`, of the same strides.
        context_lengths: (batch,) int32 or int64, real slots of each context, <= tree_begin.
        ancestors: (batch, width, depth) int32 or int64, the tree slots that each beam sees, its own
            included, counted from `tree_begin`; distinct; -1: none.
        tree_begin: Slots that are the context's.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, width, num_heads, head_dim), the dtype of `q`; 0 for a beam that sees nothing.

    Raises:
        ValueError: A shape, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    _check(q, keys, values, context_lengths, ancestors, tree_begin)
    args = q, keys, values, context_lengths, ancestors, tree_begin
    if not q.numel():
        return torch.empty_like(q)
    if not use_triton(q, backend):
        return tree_attention_ref(*args)
    from store_engine.kernels.triton.tree_attention import launch_tree_attention

    return launch_tree_attention(*args)


def _check(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    ancestors: Tensor,
    tree_begin: int,
) -> None:
    """Raises what `tree_attention` promises."""
    if q.ndim != 4 or keys.ndim != 4 or ancestors.ndim != 3:
        raise ValueError(
            "q must be (batch, width, num_heads, head_dim), keys (batch, num_slots, num_kv_heads, "
            f"head_dim) and ancestors (batch, width, depth), got {tuple(q.shape)}, "
            f"{tuple(keys.shape)} and {tuple(ancestors.shape)}"
        )
    batch, width, num_heads, head_dim = q.shape
    num_slots, num_kv_heads = keys.shape[1:3]
    check_tensor("q", q, q.shape, FLOATS, q.device)
    for name, cache in (("keys", keys), ("values", values)):
        shape = batch, num_slots, num_kv_heads, head_dim
        check_tensor(name, cache, shape, (q.dtype,), q.device, is_contiguous=False)
    check_tensor("context_lengths", context_lengths, (batch,), INTEGERS, q.device)
    check_tensor("ancestors", ancestors, (batch, width, ancestors.shape[2]), INTEGERS, q.device)
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} must be a multiple of num_kv_heads {num_kv_heads}")
    if not 0 <= tree_begin <= num_slots:
        raise ValueError(f"tree_begin must be between 0 and {num_slots}, got {tree_begin}")
    if keys.stride() != values.stride() or keys.stride()[2:] != (head_dim, 1):
        raise ValueError(
            "keys and values must have equal strides and contiguous heads, "
            f"got {keys.stride()} and {values.stride()}"
        )
