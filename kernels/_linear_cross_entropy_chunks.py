"""linear_cross_entropy chunk by chunk: the matrix products of a library, and passes over logits.

One GEMM per distinct slice of the vocabulary and chunk of rows; the gradient of a chunk's logits is
written in their place and goes through two more. Where the gradients of the losses are known to be
equal, as behind a sum or a mean, all gradients are made in the forward, as if those were 1, and
only scaled in the backward: three GEMMs. Any others need the logits once more: four.
Source: Hsu et al. 2024 (Liger Kernel), https://arxiv.org/abs/2410.10989.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# entries of a block that goes through all passes of `losses_torch` while it is in the cache; blocks
# are large, as each pass over one wakes all threads
_BLOCK_LOGITS = 1 << 19


class Chunking(NamedTuple):
    """How chunks are made and read on one kind of device."""

    # (logits, target, dlosses or None) -> losses of rows that share a slice; a target below 0 has
    # none. Given their gradients, writes that of `logits` in their place.
    losses: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    num_logits: int  # wanted of a chunk
    num_rows: int  # of a chunk at least, for an efficient GEMM
    gradient_rows: int  # of a half-precision weight gradient that are made at once


def as_rows(start: Tensor | int, length: Tensor | int, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns start and length of every row, (num_rows,) each."""
    starts, lengths = (torch.as_tensor(x, device=targets.device) for x in (start, length))
    return starts.expand_as(targets), lengths.expand_as(targets)


class Slices(NamedTuple):
    """The rows that are not ignored, grouped by their slice of the weight."""

    order: Tensor | None  # (num_kept,) row ids, slice after slice; None: all rows, as they come
    bounds: list[tuple[int, int, int]]  # of each slice: its begin, its end, its number of rows


def slices_of(start: Tensor | int, length: Tensor | int, is_kept: Tensor) -> Slices:
    """Groups the rows."""
    order = None if is_kept.all() else is_kept.nonzero()[:, 0]
    if isinstance(start, int) and isinstance(length, int):
        count = len(is_kept) if order is None else len(order)
        return Slices(order, [(start, start + length, count)])
    starts, lengths = as_rows(start, length, is_kept)
    if order is not None:
        starts, lengths = starts[order], lengths[order]
    if len(starts) == 0:
        return Slices(order, [])
    base = int(lengths.max()) + 1  # one integer per slice sorts faster than a pair
    keys, by_slice = (starts * base + lengths).sort(stable=True)
    distinct, counts = keys.unique_consecutive(return_counts=True)
    bounds = [
        (key // base, key // base + key % base, count)
        for key, count in zip(distinct.tolist(), counts.tolist(), strict=True)
    ]
    if len(bounds) > 1:
        order = by_slice if order is None else order[by_slice]
    return Slices(order, bounds)


class _Pass(NamedTuple):
    """One pass over all chunks."""

    losses: Tensor
    dhidden: Tensor | None  # None unless asked for
    dweight: Tensor | None


class Gradients(NamedTuple):
    """Which gradients a pass makes, and from what."""

    dlosses: Tensor  # (num_rows,) float32
    of_hidden: bool
    of_weight: bool


def run_chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    slices: Slices,
    how: Chunking,
    wanted: Gradients | None = None,
) -> _Pass:
    """Computes the losses chunk by chunk, and the gradients that are wanted."""
    order, num_rows = slices.order, len(targets)
    dlosses = None if wanted is None else wanted.dlosses
    if order is not None:
        hidden, targets = hidden.index_select(0, order), targets[order]
        dlosses = None if dlosses is None else dlosses[order]
    losses = torch.empty(len(targets), device=hidden.device)
    dhidden = torch.empty_like(hidden) if wanted is not None and wanted.of_hidden else None
    dweight = torch.zeros_like(weight) if wanted is not None and wanted.of_weight else None
    sizes = (end - begin for begin, end, _ in slices.bounds)
    shapes = zip(sizes, (count for *_, count in slices.bounds), strict=True)
    buffer = hidden.new_empty(
        max((n * min(_chunk_rows(n, how), count) for n, count in shapes), default=0)
    )
    first = 0
    for begin, end, count in slices.bounds:
        w = weight[begin:end]
        dw = None if dweight is None else dweight[begin:end]
        if dw is not None and dw.dtype is not torch.float32:
            dw = torch.zeros_like(dw, dtype=torch.float32)
        size = _chunk_rows(len(w), how)
        for low in range(first, first + count, size):
            rows = slice(low, min(low + size, first + count))
            h, dloss = hidden[rows], None if dlosses is None else dlosses[rows]
            logits = torch.mm(h, w.T, out=buffer[: len(h) * len(w)].view(len(h), len(w)))
            losses[rows] = how.losses(logits, targets[rows] - begin, dloss)
            if dhidden is not None:
                torch.mm(logits, w, out=dhidden[rows])
            if dw is not None:
                _add_weight_gradient(dw, logits, h, how)
        if dweight is not None and dw is not None and dw.dtype != dweight.dtype:
            for part in _gradient_parts(
                len(dw), how
            ):  # addition would make a float32 copy of the sum
                dweight[begin:end][part] += dw[part]
        first += count
    if order is not None:
        losses = losses.new_zeros(num_rows).index_copy_(0, order, losses)
        if dhidden is not None:
            empty = dhidden.new_zeros(num_rows, dhidden.shape[1])
            dhidden = empty.index_copy_(0, order, dhidden)
    return _Pass(losses, dhidden, dweight)


def _chunk_rows(length: int, how: Chunking) -> int:
    """Rows of a slice of this length whose logits are made at once."""
    return max(how.num_logits // length, how.num_rows)


def _add_weight_gradient(dw: Tensor, dlogits: Tensor, h: Tensor, how: Chunking) -> None:
    """dw += dlogits.T @ h, in float32; half-precision products never exist as a whole."""
    if dw.dtype == h.dtype:
        dw.addmm_(dlogits.T, h)
        return
    for part in _gradient_parts(len(dw), how):
        dw[part] += dlogits[:, part].T @ h


def _gradient_parts(length: int, how: Chunking) -> Iterator[slice]:
    """Cuts a slice of this length into parts."""
    return (slice(i, i + how.gradient_rows) for i in range(0, length, how.gradient_rows))


def losses_torch(logits: Tensor, target: Tensor, dloss: Tensor | None) -> Tensor:
    """The `Chunking.losses` of PyTorch's operations; every target is one."""
    num_rows, length = logits.shape
    loss = torch.empty(num_rows, 1, device=logits.device)
    size = max(_BLOCK_LOGITS // length, 1)
    for low in range(0, num_rows, size):
        rows = slice(low, low + size)
        x = logits[rows].float()
        at = target[rows, None]
        peak, at_target = x.amax(1, keepdim=True), x.gather(1, at)
        probs = x.softmax(1)
        # 1 / sum exp(x - peak): the probability of the largest, which never underflows
        lse = peak - probs.amax(1, keepdim=True).log_()
        loss[rows] = lse - at_target
        if dloss is not None:
            d = dloss[rows, None]
            logits[rows] = probs.mul_(d).scatter_add_(1, at, -d)
    return loss[:, 0]


# A chunk's logits stay in the cache, but it has rows enough for an efficient GEMM: 256 and 512 rows
# are equally fast at V=49152, 128 a fifth slower.
TORCH = Chunking(losses_torch, num_logits=1 << 21, num_rows=256, gradient_rows=2048)


class ChunkedLosses(torch.autograd.Function):
    """The losses of `run_chunks`, differentiable.

    `are_scaled` says that the gradients of the losses will be equal. Where they may not be, a CPU
    looks whether they are; a GPU would have to be waited for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        slices: Slices,
        how: Chunking,
        are_scaled: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.options, ctx.are_scaled = (slices, how), are_scaled
        wanted = None
        if are_scaled or not hidden.is_cuda:
            ones = torch.ones(len(targets), device=hidden.device)
            wanted = Gradients(ones, *ctx.needs_input_grad[:2])
        done = run_chunks(hidden, weight, targets, slices, how, wanted)
        ctx.grads = None if wanted is None else (done.dhidden, done.dweight)
        return done.losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dlosses = grads[0].contiguous()
        ready, ctx.grads = ctx.grads, None  # used up: a second backward computes them again
        if ready is None or not (ctx.are_scaled or bool((dlosses == dlosses[:1]).all())):
            slices, how = ctx.options
            wanted = Gradients(dlosses, *ctx.needs_input_grad[:2])
            hidden, weight, targets = ctx.saved_tensors
            done = run_chunks(hidden, weight, targets, slices, how, wanted)
            ready = done.dhidden, done.dweight
        else:
            ready = tuple(None if x is None else x.mul_(dlosses[0]) for x in ready)
        return *ready, None, None, None, None
