"""Triton kernel of `add_rms_norm`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard


# fmt: off
@triton.jit
def _add_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, normed_ptr, sum_ptr, hidden_size, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row."""
    dim = tl.arange(0, BLOCK)
    is_dim = dim < hidden_size
    offsets = tl.program_id(0).to(tl.int64) * hidden_size + dim
    x = tl.load(x_ptr + offsets, is_dim, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + offsets, is_dim, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + offsets, x, is_dim)
    row = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row) / hidden_size + eps)
    weight = tl.load(weight_ptr + dim, is_dim, other=0.0).to(tl.float32)
    tl.store(normed_ptr + offsets, row * scale * weight, is_dim)
# fmt: on


def _launch_config(hidden_size: int) -> dict[str, int]:
    """A row lies in the registers: a thread holds 8 entries, of a row beyond 4,096 more."""
    block = triton.next_power_of_2(hidden_size)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


def launch_add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Does what `add_rms_norm` does, for arguments that it has checked."""
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    if x.numel():
        added = x if residual is None else residual  # not read without a residual
        config = _launch_config(x.shape[1])
        with device_guard(x):
            _add_rms_norm_kernel[(len(x),)](
                x, added, weight, normed, total, x.shape[1], eps, ADD=residual is not None, **config
            )
    return normed, total
