"""The ops of a search on a GPU, and the loss in chunks, as cases of kernels.py.

The shapes are those of Qwen3-0.6B: 4 requests of 20 beams behind contexts of 512 tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.workload import Case, Work, short
from store_engine.kernels.add_rms_norm import add_rms_norm
from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.kernels.qk_rope_cache import qk_rope_cache
from store_engine.kernels.swiglu import swiglu
from store_engine.kernels.tree_attention import BeamTree, tree_attention
from store_engine.kernels.trie_select import trie_select
from store_engine.kernels.trie_topk import Beams, Level
from store_engine.testing import ATOL

BATCH, BEAMS, CONTEXT, DEPTH = 4, 20, 512, 3
EPS = 1e-6


def op_work(
    op: Callable[..., Any],
    inputs: list[Tensor],
    num_bytes: float,
    flops: float,
    dout: Tensor | None = None,
    liger: Callable[..., Any] | None = None,
) -> Work:
    """An op with a `backend`: "auto", its definition, and its kernels."""
    ours, plain, triton = (partial(op, backend=name) for name in ("auto", "torch", "triton"))

    def check() -> None:
        got, want = (x if isinstance(x, Tensor) else x[0] for x in (ours(*inputs), plain(*inputs)))
        error = (got.float() - want.float()).abs().nan_to_num(0).max().item()
        assert error <= 4 * ATOL[inputs[0].dtype], f"error {error:.2e}"

    parts = inputs, ours, plain, check, flops, num_bytes
    return Work(*parts, dout, "ours_torch", liger, triton)


def norm_case(rows: int, hidden_size: int, dtype: torch.dtype, device: str) -> Case:
    """add_rms_norm of the residual stream."""

    def make() -> Work:
        x, residual = torch.randn(2, rows, hidden_size, device=device).to(dtype)
        weight = torch.rand(hidden_size, device=device).to(dtype)
        liger = liger_add_rms_norm() if device.startswith("cuda") else None
        moved, flops = 4.0 * x.numel() * x.element_size(), 5.0 * x.numel()
        op = partial(add_rms_norm, eps=EPS)
        return op_work(op, [x, residual, weight], moved, flops, liger=liger)

    return Case(f"add_rms_norm,rows={rows},d={hidden_size},{short(dtype)}", dtype, make)


def swiglu_case(rows: int, size: int, dtype: torch.dtype, device: str) -> Case:
    """Swiglu of an MLP's gate and up."""

    def make() -> Work:
        x = torch.randn(rows, 2 * size, device=device).to(dtype)
        liger = liger_swiglu() if device.startswith("cuda") else None
        moved, flops = 1.5 * x.numel() * x.element_size(), 2.5 * x.numel()
        return op_work(swiglu, [x], moved, flops, liger=liger)

    return Case(f"swiglu,rows={rows},size={size},{short(dtype)}", dtype, make)


def rope_case(
    rows: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str
) -> Case:
    """qk_rope_cache of one step's tokens."""

    def make() -> Work:
        qkv = torch.randn(rows, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
        weight = torch.rand(head_dim, device=device).to(dtype)
        angles = torch.randn(1024, head_dim // 2, device=device)
        positions, slots = torch.randperm(1024, device=device)[: 2 * rows].int().chunk(2)
        keys, values = torch.zeros(2, 1024, kv_heads, head_dim, device=device).to(dtype)
        rope = angles.cos(), angles.sin(), positions.contiguous(), slots.contiguous()
        inputs = [qkv, weight, weight, *rope, keys, values]
        moved = 2.0 * qkv.numel() * qkv.element_size() + 4.0 * rows * head_dim
        op = partial(qk_rope_cache, eps=EPS, num_heads=heads)
        return op_work(op, inputs, moved, 9.0 * qkv.numel())

    shape = f"rows={rows},heads={heads},kv_heads={kv_heads},head_dim={head_dim}"
    return Case(f"qk_rope_cache,{shape},{short(dtype)}", dtype, make)


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


def select_case(
    batch: int, beams: int, num_items: int, codebook_size: int, dtype: torch.dtype, device: str
) -> Case:
    """trie_select where beams fan out: every node has a quarter of the codes."""

    def make() -> Work:
        num_nodes = max(num_items * 4 // codebook_size, 1)
        is_child = torch.rand(num_nodes, codebook_size, device=device) < 0.25
        is_child[:, 0] = True
        begin = F.pad(is_child.sum(1).cumsum(0), (1, 0)).int()
        level = Level(begin, is_child.nonzero()[:, 1].int())
        logits = torch.randn(batch, beams, codebook_size, device=device).to(dtype)
        scores = -torch.rand(batch, beams, device=device).sort(1)[0]
        nodes = torch.randint(0, num_nodes, (batch, beams), device=device).int()
        num_valid = torch.full_like(nodes[:, 0], beams)

        def run(logits: Tensor, scores: Tensor, backend: Any) -> Tensor:
            given = Beams(scores, nodes, nodes, nodes, num_valid, num_valid < 0)
            return trie_select(logits, given, level, beams, backend=backend).scores

        # the logits; a key written and read three times, and the code, of a quarter of them
        moved = logits.numel() * (logits.element_size() + (4 * 8 + 4) / 4)
        return op_work(run, [logits, scores], moved, 5.0 * logits.numel())

    shape = f"N={num_items},batch={batch},beam={beams},k={codebook_size}"
    return Case(f"trie_select,{shape},{short(dtype)}", dtype, make)


def chunked_loss_case(
    rows: int, hidden_size: int, vocab_size: int, dtype: torch.dtype, device: str
) -> Case:
    """linear_cross_entropy of one slice for all rows: a text head's, in chunks."""

    def make() -> Work:
        hidden = torch.randn(rows, hidden_size, device=device).to(dtype)
        weight = (0.05 * torch.randn(vocab_size, hidden_size, device=device)).to(dtype)
        targets = torch.randint(0, vocab_size, (rows,), device=device)
        once = (hidden.numel() + weight.numel()) * hidden.element_size()
        return op_work(
            partial(linear_cross_entropy, targets=targets),
            [hidden, weight],
            num_bytes=3.0 * once,
            flops=6.0 * rows * hidden_size * vocab_size,
            dout=torch.ones((), device=device),
            liger=liger_loss(targets) if device.startswith("cuda") else None,
        )

    name = f"chunked_cross_entropy,T={rows},d={hidden_size},V={vocab_size},{short(dtype)}"
    return Case(name, dtype, make, is_slow=rows * vocab_size > 1 << 26)


def liger_loss(targets: Tensor) -> Callable[..., Any] | None:
    """Liger's fused loss as (hidden, weight); None where it is not installed."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight: loss(weight, hidden, targets)


def liger_add_rms_norm() -> Callable[..., Any] | None:
    """Liger's op of the same name, all but the sum in float32; None where it is not installed."""
    try:
        from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction
    except ImportError:
        return None
    offset, casting_mode = 0.0, "gemma"
    return lambda *inputs: LigerFusedAddRMSNormFunction.apply(*inputs, EPS, offset, casting_mode)


def liger_swiglu() -> Callable[..., Any] | None:
    """Liger's SwiGLU of both halves; None where it is not installed."""
    try:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return None
    return lambda x: LigerSiLUMulFunction.apply(*(part.contiguous() for part in x.chunk(2, 1)))


def decode_cases(dtype: torch.dtype, device: str) -> list[Case]:
    """The table of cases; the first of each op is small, to try the benchmark itself."""
    rows = BATCH * BEAMS
    return [
        norm_case(4, 64, dtype, device),
        norm_case(rows, 1024, dtype, device),
        swiglu_case(4, 96, dtype, device),
        swiglu_case(rows, 3072, dtype, device),
        rope_case(4, 2, 1, 32, dtype, device),
        rope_case(rows, 16, 8, 128, dtype, device),
        tree_case(2, 3, 40, 2, 1, dtype, device),
        tree_case(BATCH, BEAMS, CONTEXT, 16, 8, dtype, device),
        tree_case(1, BEAMS, CONTEXT, 16, 8, dtype, device),
        select_case(2, 3, 64, 16, dtype, device),
        select_case(BATCH, BEAMS, 1_000_000, 256, dtype, device),
        select_case(8, 256, 1_000_000, 2048, dtype, device),
        chunked_loss_case(64, 32, 256, dtype, device),
        chunked_loss_case(8192, 576, 49152, dtype, device),
    ]
