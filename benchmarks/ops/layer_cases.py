"""What a layer of the model does between its products, as cases of kernels.py."""

from functools import partial

import torch

from benchmarks.ops.liger import liger_add_rms_norm, liger_swiglu
from benchmarks.ops.workload import Case, Work, op_work, short
from store_engine.kernels.add_rms_norm import add_rms_norm
from store_engine.kernels.qk_rope_cache import qk_rope_cache
from store_engine.kernels.swiglu import swiglu

EPS = 1e-6


def norm_case(rows: int, hidden_size: int, dtype: torch.dtype, device: str) -> Case:
    """add_rms_norm of the residual stream."""

    def make() -> Work:
        x, residual = torch.randn(2, rows, hidden_size, device=device).to(dtype)
        weight = torch.rand(hidden_size, device=device).to(dtype)
        moved, flops = 4.0 * x.numel() * x.element_size(), 5.0 * x.numel()
        op, liger = partial(add_rms_norm, eps=EPS), liger_add_rms_norm(x, EPS)
        return op_work(op, [x, residual, weight], moved, flops, liger=liger)

    return Case(f"add_rms_norm,rows={rows},d={hidden_size},{short(dtype)}", dtype, make)


def swiglu_case(rows: int, size: int, dtype: torch.dtype, device: str) -> Case:
    """Swiglu of an MLP's gate and up."""

    def make() -> Work:
        x = torch.randn(rows, 2 * size, device=device).to(dtype)
        moved, flops = 1.5 * x.numel() * x.element_size(), 2.5 * x.numel()
        return op_work(swiglu, [x], moved, flops, liger=liger_swiglu(x))

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
