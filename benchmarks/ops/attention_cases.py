"""Attention of beams over a shared context as cases of kernels.py."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.workload import Case, Work, op_work, short
from store_engine.kernels.beam_attention import beam_attention, beam_attention_ref
from store_engine.kernels.tree_attention import BeamTree, tree_attention
from store_engine.testing import ATOL

DEPTH = 3  # levels of the tree, the last one's beams ask


def attention_case(
    batch: int, beam_width: int, context: int, head_dim: int, dtype: torch.dtype, device: str
) -> Case:
    """beam_attention of 9 heads on 3 key heads, against a cache that holds a context per beam."""

    def make() -> Work:
        num_tree = 2 * beam_width
        q = torch.randn(batch, beam_width, 9, head_dim, device=device).to(dtype)
        kv = torch.randn(2, batch, context + num_tree, 3, head_dim, device=device).to(dtype)
        keys, values = kv.unbind(0)
        lengths = torch.full((batch,), context, device=device)
        tree_mask = torch.rand(batch, beam_width, num_tree, device=device) < 0.1
        ours = partial(beam_attention, context_lengths=lengths, tree_mask=tree_mask)
        ref = partial(beam_attention_ref, context_lengths=lengths, tree_mask=tree_mask)
        # the beam's own copy: context and its two tree slots, with all heads
        own = kv[:, :, : context + 2].repeat_interleave(beam_width, 1).transpose(2, 3)
        own_keys, own_values = own.repeat_interleave(3, 2).contiguous().unbind(0)

        def copied(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rows = q.flatten(0, 1)[:, :, None]
            return F.scaled_dot_product_attention(rows, own_keys, own_values)

        def check() -> None:
            with torch.no_grad():
                error = (ours(q, keys, values) - ref(q, keys, values)).abs().max().item()
            assert error <= ATOL[dtype], f"error {error:.2e}"

        flops = 4.0 * batch * beam_width * 9 * head_dim * (context + num_tree)
        moved = (kv.numel() + 2 * q.numel()) * kv.element_size()
        return Work([q, keys, values], ours, copied, check, flops, moved)

    shape = f"batch={batch},beam={beam_width},context={context},head_dim={head_dim}"
    return Case(f"beam_attention,{shape},{short(dtype)}", dtype, make)


def tree_case(
    batch: int, beams: int, context: int, heads: int, kv_heads: int, dtype: torch.dtype, device: str
) -> Case:
    """tree_attention of the last level's beams, with heads of 128."""

    def make() -> Work:
        num_tree, first = DEPTH * beams, (DEPTH - 1) * beams
        q = torch.randn(batch, beams, heads, 128, device=device).to(dtype)
        keys, values = torch.randn(2, batch, context + num_tree, kv_heads, 128, device=device).to(
            dtype
        )
        lengths = torch.full((batch,), context, device=device).int()
        parents = torch.arange(-beams, first, device=device).clamp(min=-1).int().repeat(batch, 1)
        tree = BeamTree(parents, first, DEPTH)
        counters = torch.zeros(batch * beams * heads, device=device).int()
        op = partial(tree_attention, counters=counters)

        def run(q: Tensor, keys: Tensor, values: Tensor, backend: Any) -> Tensor:
            return op(q, keys, values, lengths, tree, backend=backend)

        seen = context * kv_heads + beams * DEPTH * kv_heads
        moved = (2.0 * q.numel() + 2.0 * batch * seen * 128) * q.element_size()
        flops = 4.0 * q.numel() * (context + DEPTH)
        return op_work(run, [q, keys, values], moved, flops)

    shape = f"batch={batch},beam={beams},context={context},heads={heads},kv_heads={kv_heads}"
    return Case(f"tree_attention,{shape},{short(dtype)}", dtype, make)
