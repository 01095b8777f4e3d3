"""Decode attention of a block of beams, by the way from each beam back to the root.

    out = softmax(q k^T / sqrt(head_dim), over the context and the beam's ancestors) v

The op of beam_attention.py for a cache of fixed size, as a CUDA graph needs it: the slots of the
tree are found from parent to parent, a few for each beam, instead of walking over all of them with
a mask; and the context is split among programs (split-KV), so that a batch of one fills a GPU. How
many splits there are follows from shapes alone. The program of a tile that is done last, by a
counter, merges the splits, in their order: there is no second launch, and the result does not
depend on which one it is. Memory-bound, on the context's keys and values; slots past a context's
length are not read. No backward: decode only.
Source: Dao et al. 2023 (Flash-Decoding), https://pytorch.org/blog/flash-decoding; Juravsky et al.
2024 (Hydragen, shared prefixes), https://arxiv.org/abs/2402.05099.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine.kernels._checks import FLOATS, INTEGERS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels.beam_attention import beam_attention_ref


class BeamTree(NamedTuple):
    """The beams of all levels so far, in the slots of the cache behind the context."""

    parents: Tensor  # (batch, num_tree) int32: the slot of each one's parent; -1 for none
    first: int  # slot of the first query; the others follow
    depth: int  # slots that a query sees at most: its own, its parent's, ...


def tree_attention_ref(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    tree: BeamTree,
) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `tree_attention`."""
    batch, width, num_tree = *q.shape[:2], tree.parents.shape[1]
    slot = tree.first + torch.arange(width, device=q.device).expand(batch, width)
    tree_mask = slot.new_zeros(batch, width, num_tree + 1, dtype=torch.bool)
    for _ in range(tree.depth):
        at = slot.masked_fill(slot < 0, num_tree)[:, :, None]  # one more takes what is none
        tree_mask.scatter_(2, at, True)
        slot = tree.parents.gather(1, slot.clamp(min=0)).long().masked_fill(slot < 0, -1)
    return beam_attention_ref(q, keys, values, context_lengths, tree_mask[:, :, :-1])


def tree_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    context_lengths: Tensor,
    tree: BeamTree,
    *,
    counters: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attends from each beam to its request's context, to itself and to its ancestors.

    Args:
        q: (batch, width, num_heads, head_dim), float32, float16 or bfloat16, contiguous.
        keys: (batch, num_slots, num_kv_heads, head_dim), the dtype of `q`: contexts first, from
            slot 0, then, in the last `num_tree`, the beam tree. The last two dimensions are
            contiguous. Every number must be finite.
        values: Like `keys`, of the same strides.
        context_lengths: (batch,) int32 or int64, real slots of each context, of num_slots -
            num_tree at most.
        tree: Where the beams stand and where they come from. A parent beyond the tree, or that is
            its own ancestor, is the caller's error, which the kernel does not look for.
        counters: (num_queries or more,) int32 zeros, for as many queries as q has heads in all;
            zeros again when the kernel is done, so that the next call may have them. None: they are
            made for this call, by one launch more.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (batch, width, num_heads, head_dim), the dtype of `q`; 0 for a beam that sees nothing.

    Raises:
        ValueError: A shape, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    _check(q, keys, values, context_lengths, tree)
    num_queries = q.shape[:3].numel()
    if counters is not None:
        size = max(counters.numel(), num_queries)
        check_tensor("counters", counters, (size,), (torch.int32,), q.device)
    args = q, keys, values, context_lengths, tree
    if not q.numel():
        return torch.empty_like(q)
    if not use_triton(q, backend):
        return tree_attention_ref(*args)
    from store_engine.kernels.triton.tree_attention import launch_tree_attention

    return launch_tree_attention(*args, counters)


def _check(
    q: Tensor, keys: Tensor, values: Tensor, context_lengths: Tensor, tree: BeamTree
) -> None:
    """Raises what `tree_attention` promises."""
    if q.ndim != 4 or keys.ndim != 4 or tree.parents.ndim != 2:
        raise ValueError(
            "q must be (batch, width, num_heads, head_dim), keys (batch, num_slots, num_kv_heads, "
            f"head_dim) and parents (batch, num_tree), got {tuple(q.shape)}, {tuple(keys.shape)} "
            f"and {tuple(tree.parents.shape)}"
        )
    batch, width, num_heads, head_dim = q.shape
    num_slots, num_kv_heads = keys.shape[1:3]
    check_tensor("q", q, q.shape, FLOATS, q.device)
    for name, cache in (("keys", keys), ("values", values)):
        shape = batch, num_slots, num_kv_heads, head_dim
        check_tensor(name, cache, shape, (q.dtype,), q.device, is_contiguous=False)
    check_tensor("context_lengths", context_lengths, (batch,), INTEGERS, q.device)
    num_tree = tree.parents.shape[1]
    check_tensor("parents", tree.parents, (batch, num_tree), (torch.int32,), q.device)
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} must be a multiple of num_kv_heads {num_kv_heads}")
    if num_tree > num_slots:
        raise ValueError(f"a tree of {num_tree} slots must be among the {num_slots} of keys")
    if tree.depth < 0 or not 0 <= tree.first <= num_tree - width * (tree.depth > 0):
        raise ValueError(
            f"{width} queries from slot {tree.first} on must be in a tree of {num_tree} slots, and "
            f"its depth not below 0, got {tree.depth}"
        )
    if keys.stride() != values.stride() or keys.stride()[2:] != (head_dim, 1):
        raise ValueError(
            "keys and values must have equal strides and contiguous heads, "
            f"got {keys.stride()} and {values.stride()}"
        )
