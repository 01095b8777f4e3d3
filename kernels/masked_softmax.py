"""Softmax of each row over its own contiguous range of entries.

    y_j = exp(x_j - lse),  lse = log sum_{start <= k < start + length} exp(x_k)

An entry outside the range gets probability 0 (log-probability -inf) and gradient 0, whatever its
logit is, even NaN. A row with an empty range, or whose logits there are all -inf, is all 0 (all
-inf): never NaN.

One program walks one row twice, first for the maximum and the sum (online softmax), then to write;
the second read of a short row hits the cache. Memory-bound: the row's range is read, the whole row
written. Source: Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._dispatch import Backend, use_triton

Range = tuple[int | Tensor, int | Tensor]  # start and length

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
        from store_engine.kernels.triton.masked_softmax import MaskedSoftmax

        x = logits.contiguous().view(-1, logits.shape[-1])
        return MaskedSoftmax.apply(x, _stack(allowed, logits), log).view_as(logits)
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
