"""Triton kernel of `add_rms_norm`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard


# fmt: off
@triton.jit
def _add_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, rows_ptr, normed_ptr, sum_ptr, hidden_size, eps,
    ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row."""
    dim = tl.arange(0, BLOCK)
    is_dim = dim < hidden_size
    out = tl.program_id(0).to(tl.int64)
    taken = out
    if ROWS:
        taken = tl.maximum(tl.load(rows_ptr + out), 0).to(tl.int64)
    x = tl.load(x_ptr + taken * hidden_size + dim, is_dim, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + taken * hidden_size + dim, is_dim, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
    offsets = out * hidden_size + dim
    if ADD or ROWS:
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
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Does what `add_rms_norm` does, for arguments that it has checked."""
    num_rows, hidden_size = x.shape if rows is None else (len(rows), x.shape[1])
    normed = x.new_empty(num_rows, hidden_size)
    is_copied = residual is not None or rows is not None
    total = torch.empty_like(normed) if is_copied else x
    if normed.numel():
        added, taken = (x if part is None else part for part in (residual, rows))  # not read
        tensors = x, added, weight, taken, normed, total
        options = {"ADD": residual is not None, "ROWS": rows is not None}
        with device_guard(x):
            _add_rms_norm_kernel[(num_rows,)](
                *tensors, hidden_size, eps, **options, **_launch_config(hidden_size)
            )
    return normed, total
