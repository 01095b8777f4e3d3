"""Tensor operations on rows of unequal length, without padding, and a top-k with ordered ties."""

import torch
from torch import Tensor


def ragged_ranges(first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Writes the ranges first[i] : first[i] + length[i] one behind the other.

    Args:
        first: (num_ranges,) int64.
        length: (num_ranges,) int64, none negative.

    Returns:
        owner: (total,) int64, the i each number comes from.
        number: (total,) int64.
    """
    owner = torch.arange(len(first), device=first.device).repeat_interleave(length)
    before = length.cumsum(0) - length
    return owner, torch.arange(len(owner), device=first.device) + (first - before)[owner]


def segment_logsumexp(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Computes each segment's log-sum-exp, (num_segments,); -inf for an empty segment."""
    top = x.new_full((num_segments,), -torch.inf).scatter_reduce(0, segment, x, "amax")
    shift = top.clamp(min=torch.finfo(x.dtype).min)  # -inf - -inf would be NaN
    total = torch.zeros_like(top).index_add(0, segment, (x - shift[segment]).exp())
    return total.log() + shift


def top_columns(table: Tensor, width: int) -> Tensor:
    """Columns of each row's `width` largest values, descending; of equal values the first.

    torch.topk promises no order among equals, so it only finds the threshold.
    """
    threshold = table.topk(width, dim=1).values[:, -1:]
    is_above, is_equal = table > threshold, table == threshold
    num_equal = width - is_above.sum(1, keepdim=True)
    is_top = is_above | (is_equal & (is_equal.cumsum(1) <= num_equal))
    columns = is_top.nonzero()[:, 1].view(len(table), width)
    order = table.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)
