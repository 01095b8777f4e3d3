"""Softmax of each row over its own contiguous range of entries.

    y_j = exp(x_j - lse),  lse = log sum_{start <= k < start + length} exp(x_k)

An entry outside the range gets probability 0 (log-probability -inf) and gradient 0, whatever its
logit is, even NaN. A row with an empty range, or whose logits there are all -inf, is all 0 (all
-inf): never NaN.

One program walks one row twice, first for the maximum and the sum (online softmax), then to write;
the second read of a short row hits the cache. Memory-bound: the row's range is read, the whole row
written. Source: Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from store_engine.kernels._dispatch import Backend, device_guard, use_triton

Range = tuple[int | Tensor, int | Tensor]  # start and length

_MAX_BLOCK = 4096  # 16 warps hold a tile of 8 entries per thread
_INF = float("inf")


def masked_softmax_ref(logits: Tensor, allowed: Range, log: bool = False) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `masked_softmax`."""
    cols = torch.arange(logits.shape[-1], device=logits.device)
    start, length = (torch.as_tensor(x, device=logits.device)[..., None] for x in allowed)
    is_allowed = (cols >= start) & (cols < start + length)
    x = logits.masked_fill(~is_allowed, -_INF)
    is_nothing = x.detach().amax(-1, keepdim=True) == -_INF
    x = x.masked_fill(is_nothing, 0.0) if is_nothing.any() else x  # a softmax without NaN
    if log:  # the fill also cuts off the gradient of an entry that is -inf whatever the others are
        return x.log_softmax(-1).masked_fill(~is_allowed | is_nothing, -_INF)
    y = x.softmax(-1)
    return y.masked_fill(is_nothing, 0.0) if is_nothing.any() else y


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
        new_peak = tl.maximum(peak, tl.max(x))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift))
        peak = new_peak
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


class _MaskedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranges: Tensor, log: bool) -> Any:
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
        y, ranges = ctx.saved_tensors
        dx = torch.empty_like(y)
        if len(y):
            with device_guard(y):
                _masked_softmax_bwd_kernel[(len(y),)](
                    grads[0].contiguous(), y, dx, ranges, *ctx.options, **_launch_config(y.shape[1])
                )
        return dx, None, None


def masked_softmax(
    logits: Tensor, allowed: Range, log: bool = False, *, backend: Backend = "auto"
) -> Tensor:
    """Takes the softmax of each row over the row's range.

    Args:
        logits: (..., vocab_size), float32, float16 or bfloat16.
        allowed: (start, length), each an int for all rows or an integer tensor (...): the entries
            start <= j < start + length.
        log: Return log-probabilities.
        backend: "auto" runs the Triton kernel on CUDA tensors and PyTorch elsewhere.

    Returns:
        (..., vocab_size), the dtype of `logits`; sums are float32. Entries outside the range are 0
        (`log`: -inf), and so is the whole row where the range is empty.

    Raises:
        ValueError: A shape does not fit.
        TypeError: The range is not of integers.
    """
    _check(logits, allowed)
    if use_triton(logits, backend):
        x = logits.contiguous().view(-1, logits.shape[-1])
        return _MaskedSoftmax.apply(x, _stack(allowed, logits), log).view_as(logits)
    if all(isinstance(x, int) for x in allowed):
        # one range for all rows: the rest of the logits is never read
        begin = min(max(int(allowed[0]), 0), logits.shape[-1])
        end = max(min(int(allowed[0] + allowed[1]), logits.shape[-1]), begin)
        if begin < end:
            inside = masked_softmax_ref(logits[..., begin:end], (0, end - begin), log)
            return F.pad(inside, (begin, logits.shape[-1] - end), value=-_INF if log else 0.0)
    return masked_softmax_ref(logits, allowed, log)


def _stack(allowed: Range, logits: Tensor) -> Tensor:
    """What the kernels read: (num_rows, 2) int32, begin and end of each row's range."""
    shape, device = logits.shape[:-1], logits.device
    start, length = (torch.as_tensor(x, device=device).expand(shape).flatten() for x in allowed)
    return torch.stack([start, start + length], -1).int()


def _check(logits: Tensor, allowed: Range) -> None:
    """Raises what `masked_softmax` promises."""
    *shape, vocab_size = logits.shape
    if vocab_size == 0:
        raise ValueError(f"logits need at least one column, got {tuple(logits.shape)}")
    for name, bound in zip(("start", "length"), allowed, strict=True):
        if isinstance(bound, Tensor):
            if bound.dtype.is_floating_point or bound.dtype is torch.bool:
                raise TypeError(f"{name} must hold integers, got {bound.dtype}")
            if list(bound.shape) != shape:
                raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(bound.shape)}")
