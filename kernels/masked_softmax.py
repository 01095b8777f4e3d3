"""Softmax of each row over its own allowed entries: a contiguous range, or the ones of a bitmask.

    y_j = exp(x_j / temperature - lse),  lse = log sum_{k allowed} exp(x_k / temperature)

An entry that is not allowed gets probability 0 (log-probability -inf) and gradient 0, whatever its
logit is, even NaN. A row with nothing allowed, or whose allowed logits are all -inf, is all 0 (all
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

from store_engine.kernels._dispatch import Backend, use_triton

Range = tuple[int | Tensor, int | Tensor]  # start and length

_MAX_BLOCK = 4096  # 16 warps hold a tile of 8 entries per thread
_INF = float("inf")


def masked_softmax_ref(
    logits: Tensor, allowed: Range | Tensor, temperature: float = 1.0, log: bool = False
) -> Tensor:
    """The definition of the op, in plain PyTorch. Same arguments as `masked_softmax`."""
    is_allowed = _is_allowed(allowed, logits)
    x = logits if temperature == 1 else logits.float() / temperature
    x = x.masked_fill(~is_allowed, -_INF)
    is_nothing = x.detach().amax(-1, keepdim=True) == -_INF
    x = x.masked_fill(is_nothing, 0.0) if is_nothing.any() else x  # a softmax without NaN
    if log:  # the fill also cuts off the gradient of an entry that is -inf whatever the others are
        y = x.log_softmax(-1).masked_fill(~is_allowed | is_nothing, -_INF)
    else:
        y = x.softmax(-1)
        y = y.masked_fill(is_nothing, 0.0) if is_nothing.any() else y
    return y.to(logits.dtype)


def _is_allowed(allowed: Range | Tensor, logits: Tensor) -> Tensor:
    """The allowed entries as booleans, broadcastable to the shape of `logits`."""
    vocab_size, device = logits.shape[-1], logits.device
    if isinstance(allowed, Tensor):
        bits = torch.tensor([1 << b for b in range(8)], dtype=torch.uint8, device=device)
        octets = allowed.contiguous().view(torch.uint8)[..., None]  # of a little-endian machine
        return (octets & bits != 0).flatten(-2)[..., :vocab_size]
    cols = torch.arange(vocab_size, device=device)
    start, length = (torch.as_tensor(x, device=device)[..., None] for x in allowed)
    return (cols >= start) & (cols < start + length)


def pack_bitmask(is_allowed: Tensor) -> Tensor:
    """Packs booleans into int32 words; bit b of word w is entry 32 w + b.

    Args:
        is_allowed: (..., vocab_size) bool.

    Returns:
        (..., ceil(vocab_size / 32)) int32; the bits past the end are 0.
    """
    padded = F.pad(is_allowed, (0, -is_allowed.shape[-1] % 32))
    bits = torch.arange(32, device=is_allowed.device)
    words = (padded.unflatten(-1, (-1, 32)).long() << bits).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()  # two's complement


@triton.jit
def _load_allowed(allowed_ptr, row, cols, vocab_size, stride, IS_BITMASK: tl.constexpr):
    """Which columns of one row are allowed; columns past the vocabulary never are."""
    if IS_BITMASK:
        words = tl.load(allowed_ptr + row * stride + (cols >> 5), cols < vocab_size, other=0)
        return ((words >> (cols & 31)) & 1) != 0
    else:
        begin = tl.load(allowed_ptr + row * 2)
        end = tl.load(allowed_ptr + row * 2 + 1)
        return (cols >= begin) & (cols < end) & (cols < vocab_size)


@triton.jit
def _bounds(allowed_ptr, row, vocab_size, IS_BITMASK: tl.constexpr):
    """The columns worth reading: [begin, end)."""
    if IS_BITMASK:
        return 0, vocab_size
    else:
        begin = tl.maximum(tl.load(allowed_ptr + row * 2), 0)
        return begin, tl.minimum(tl.load(allowed_ptr + row * 2 + 1), vocab_size)


@triton.jit
def _masked_softmax_fwd_kernel(
    x_ptr,
    y_ptr,
    allowed_ptr,  # (rows, stride) words, or (rows, 2) begin and end
    vocab_size,
    stride,
    inverse_temperature,
    IS_BITMASK: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * vocab_size
    y_ptr += row * vocab_size
    begin, end = _bounds(allowed_ptr, row, vocab_size, IS_BITMASK)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(begin, end, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = _load_allowed(allowed_ptr, row, cols, vocab_size, stride, IS_BITMASK)
        x = tl.load(x_ptr + cols, mask, other=float("-inf")).to(tl.float32) * inverse_temperature
        new_peak = tl.maximum(peak, tl.max(x))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift))
        peak = new_peak
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.where(total == 0.0, 1.0, total)
    for first in range(0, vocab_size, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = _load_allowed(allowed_ptr, row, cols, vocab_size, stride, IS_BITMASK)
        x = tl.load(x_ptr + cols, mask, other=float("-inf")).to(tl.float32) * inverse_temperature
        y = x - peak - tl.log(total) if LOG else tl.exp(x - peak) / total
        tl.store(y_ptr + cols, y, cols < vocab_size)


@triton.jit
def _masked_softmax_bwd_kernel(
    dy_ptr,
    y_ptr,
    dx_ptr,
    allowed_ptr,
    vocab_size,
    stride,
    inverse_temperature,
    IS_BITMASK: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dy_ptr += row * vocab_size
    y_ptr += row * vocab_size
    dx_ptr += row * vocab_size
    begin, end = _bounds(allowed_ptr, row, vocab_size, IS_BITMASK)
    total = tl.full((), 0.0, tl.float32)  # sum of dy * y, in the log variant of dy
    for first in range(begin, end, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = _load_allowed(allowed_ptr, row, cols, vocab_size, stride, IS_BITMASK)
        dy = tl.load(dy_ptr + cols, mask, other=0.0).to(tl.float32)
        if not LOG:
            dy *= tl.load(y_ptr + cols, mask, other=0.0).to(tl.float32)
        total += tl.sum(dy)
    for first in range(0, vocab_size, BLOCK):
        cols = first + tl.arange(0, BLOCK)
        mask = _load_allowed(allowed_ptr, row, cols, vocab_size, stride, IS_BITMASK)
        dy = tl.load(dy_ptr + cols, mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + cols, mask, other=0.0).to(tl.float32)
        dx = dy - tl.exp(y) * total if LOG else y * (dy - total)
        tl.store(dx_ptr + cols, tl.where(mask, dx * inverse_temperature, 0.0), cols < vocab_size)


def _launch_config(vocab_size: int) -> dict[str, int]:
    """Tile and warps: a thread holds 8 entries at most."""
    block = min(max(triton.next_power_of_2(vocab_size), 128), _MAX_BLOCK)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


class _MaskedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, allowed: Tensor, scale: float, is_mask: bool, log: bool
    ) -> Any:
        num_rows, vocab_size = x.shape
        ctx.options = vocab_size, allowed.shape[-1], scale, is_mask, log
        y = torch.empty_like(x)
        if num_rows:
            _masked_softmax_fwd_kernel[(num_rows,)](
                x, y, allowed, *ctx.options, **_launch_config(vocab_size)
            )
        ctx.save_for_backward(y, allowed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        y, allowed = ctx.saved_tensors
        dx = torch.empty_like(y)
        if len(y):
            _masked_softmax_bwd_kernel[(len(y),)](
                grads[0].contiguous(), y, dx, allowed, *ctx.options, **_launch_config(y.shape[-1])
            )
        return dx, None, None, None, None


def masked_softmax(
    logits: Tensor,
    allowed: Range | Tensor,
    temperature: float = 1.0,
    log: bool = False,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Takes the softmax of each row over the entries that the row allows.

    Args:
        logits: (..., vocab_size), float32, float16 or bfloat16.
        allowed: Either (start, length), each an int for all rows or an integer tensor (...), for
            the entries start <= j < start + length; or a bitmask (..., ceil(vocab_size / 32)) int32
            of `pack_bitmask`, entry 32 w + b in bit b of word w.
        temperature: Divides the logits; positive.
        log: Return log-probabilities.
        backend: "auto" runs the Triton kernel on CUDA tensors and PyTorch elsewhere.

    Returns:
        (..., vocab_size), the dtype of `logits`; sums are float32. Entries not allowed are 0
        (`log`: -inf), and so is the whole row where nothing is allowed.

    Raises:
        ValueError: A shape does not fit, or the temperature is not positive.
        TypeError: The bitmask is not int32, or the range not of integers.
    """
    _check(logits, allowed, temperature)
    if use_triton(logits, backend):
        x = logits.contiguous().view(-1, logits.shape[-1])
        is_mask = isinstance(allowed, Tensor)
        packed = _pack_allowed(allowed, logits)
        return _MaskedSoftmax.apply(x, packed, 1 / temperature, is_mask, log).view_as(logits)
    if not isinstance(allowed, Tensor) and all(isinstance(x, int) for x in allowed):
        # one range for all rows: the rest of the logits is never read
        begin = min(max(int(allowed[0]), 0), logits.shape[-1])
        end = max(min(int(allowed[0] + allowed[1]), logits.shape[-1]), begin)
        if begin < end:
            inside = masked_softmax_ref(logits[..., begin:end], (0, end - begin), temperature, log)
            return F.pad(inside, (begin, logits.shape[-1] - end), value=-_INF if log else 0.0)
    return masked_softmax_ref(logits, allowed, temperature, log)


def _pack_allowed(allowed: Range | Tensor, logits: Tensor) -> Tensor:
    """The int32 matrix that the kernels read: a row's words, or its begin and end."""
    if isinstance(allowed, Tensor):
        return allowed.contiguous().view(-1, allowed.shape[-1])
    shape, device = logits.shape[:-1], logits.device
    start, length = (torch.as_tensor(x, device=device).expand(shape).flatten() for x in allowed)
    return torch.stack([start, start + length], -1).int()


def _check(logits: Tensor, allowed: Range | Tensor, temperature: float) -> None:
    """Raises what `masked_softmax` promises."""
    *shape, vocab_size = logits.shape
    if vocab_size == 0:
        raise ValueError(f"logits need at least one column, got {tuple(logits.shape)}")
    if not 0 < temperature < _INF:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if isinstance(allowed, Tensor):
        if allowed.dtype is not torch.int32:
            raise TypeError(f"a bitmask must be int32, got {allowed.dtype}")
        want = (*shape, -(-vocab_size // 32))
        if allowed.shape != want:
            raise ValueError(f"the bitmask must be {want}, got {tuple(allowed.shape)}")
        return
    for name, bound in zip(("start", "length"), allowed, strict=True):
        if isinstance(bound, Tensor):
            if bound.dtype.is_floating_point or bound.dtype is torch.bool:
                raise TypeError(f"{name} must hold integers, got {bound.dtype}")
            if list(bound.shape) != shape:
                raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(bound.shape)}")
