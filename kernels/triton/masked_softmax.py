"""Triton kernels of `masked_softmax`, forward and backward."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels.triton.online_softmax import add_tile

_MAX_BLOCK = 4096  # 16 warps hold a tile of 8 entries per thread


# fmt: off
@triton.jit
def _load_range(ranges_ptr, row, vocab_size):
    """The columns of one row's range: [begin, end)."""
    begin = tl.maximum(tl.load(ranges_ptr + row * 2), 0)
    return begin, tl.minimum(tl.load(ranges_ptr + row * 2 + 1), vocab_size)


@triton.jit
def _masked_softmax_fwd_kernel(
    x_ptr, y_ptr, ranges_ptr, vocab_size, LOG: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row; ranges are (num_rows, 2), begin and end."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * vocab_size
    y_ptr += row * vocab_size
    begin, end = _load_range(ranges_ptr, row, vocab_size)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(begin, end, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + cols, cols < end, other=float("-inf")).to(tl.float32)
        peak, total = add_tile(peak, total, x)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.where(total == 0.0, 1.0, total)
    for first in range(0, vocab_size, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = (cols >= begin) & (cols < end)
        x = tl.load(x_ptr + cols, mask, other=float("-inf")).to(tl.float32)
        y = x - peak - tl.log(total) if LOG else tl.exp(x - peak) / total
        tl.store(y_ptr + cols, y, cols < vocab_size)


@triton.jit
def _masked_softmax_bwd_kernel(
    dy_ptr, y_ptr, dx_ptr, ranges_ptr, vocab_size, LOG: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    dy_ptr += row * vocab_size
    y_ptr += row * vocab_size
    dx_ptr += row * vocab_size
    begin, end = _load_range(ranges_ptr, row, vocab_size)
    total = tl.full((), 0.0, tl.float32)  # sum of dy * y, in the log variant of dy
    for first in range(begin, end, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        dy = tl.load(dy_ptr + cols, cols < end, other=0.0).to(tl.float32)
        if not LOG:
            dy *= tl.load(y_ptr + cols, cols < end, other=0.0).to(tl.float32)
        total += tl.sum(dy)
    for first in range(0, vocab_size, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = (cols >= begin) & (cols < end)
        dy = tl.load(dy_ptr + cols, mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + cols, mask, other=0.0).to(tl.float32)
        dx = dy - tl.exp(y) * total if LOG else y * (dy - total)
        tl.store(dx_ptr + cols, tl.where(mask, dx, 0.0), cols < vocab_size)
# fmt: on


def _launch_config(vocab_size: int) -> dict[str, int]:
    """Tile and warps: a thread holds 8 entries at most."""
    block = min(max(triton.next_power_of_2(vocab_size), 128), _MAX_BLOCK)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


class MaskedSoftmax(torch.autograd.Function):
    """`masked_softmax` of contiguous (num_rows, vocab_size) logits and (num_rows, 2) ranges."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranges: Tensor, log: bool) -> Any:
        """Returns probabilities, or log-probabilities, of the shape of `x`."""
        num_rows, vocab_size = x.shape
        ctx.options = vocab_size, log
        y = torch.empty_like(x)
        if num_rows:
            with device_guard(x):
                _masked_softmax_fwd_kernel[(num_rows,)](
                    x, y, ranges, *ctx.options, **_launch_config(vocab_size)
                )
        ctx.save_for_backward(y, ranges)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Returns the gradient of `x`."""
        y, ranges = ctx.saved_tensors
        dx = torch.empty_like(y)
        if len(y):
            with device_guard(y):
                _masked_softmax_bwd_kernel[(len(y),)](
                    grads[0].contiguous(), y, dx, ranges, *ctx.options, **_launch_config(y.shape[1])
                )
        return dx, None, None
