"""The PyTorch path of linear_cross_entropy, which trains on CPUs.

One GEMM per distinct slice of the vocabulary and chunk of rows. The gradients are made while the
chunk's logits are in the cache, as if the gradient of every loss were 1; a sum and a mean only
scale them. Any other gradient of the losses needs the logits once more.
Source: Hsu et al. 2024 (Liger Kernel), https://arxiv.org/abs/2410.10989.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# a chunk of logits stays in the cache, but has rows enough for an efficient GEMM: on 1 core, fp32,
# hidden=576, V=49152, the three GEMMs take 2.89 ms a row in chunks of 128 rows, 2.58 in 512
_CHUNK_LOGITS = 1 << 20
_CHUNK_ROWS = 512


class Options(NamedTuple):
    """What is added to the plain cross-entropy."""

    label_smoothing: float
    z_loss: float


def as_rows(start: Tensor | int, length: Tensor | int, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Start and length of every row, (num_rows,) each."""
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
    is_correct: Tensor
    dhidden: Tensor | None  # None unless asked for
    dweight: Tensor | None


def run_chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    slices: Slices,
    options: Options,
    dlosses: Tensor | None,
) -> _Pass:
    """Computes the losses chunk by chunk, and the gradients too when given those of the losses."""
    order, num_rows = slices.order, len(targets)
    if order is not None:
        hidden, targets = hidden.index_select(0, order), targets[order]
        dlosses = None if dlosses is None else dlosses[order]
    losses = torch.empty(len(targets), device=hidden.device)
    is_correct = torch.empty_like(targets, dtype=torch.bool)
    dhidden = None if dlosses is None else torch.empty_like(hidden)
    dweight = None if dlosses is None else torch.zeros_like(weight)
    first = 0
    for begin, end, count in slices.bounds:
        w = weight[begin:end]
        dw = None if dweight is None else dweight[begin:end]
        if dw is not None and dw.dtype is not torch.float32:
            dw = torch.zeros_like(dw, dtype=torch.float32)
        num_chunk_rows = max(_CHUNK_LOGITS // (end - begin), _CHUNK_ROWS)
        stop = first + count
        while first < stop:
            rows = slice(first, min(first + num_chunk_rows, stop))
            h, dloss = hidden[rows], None if dlosses is None else dlosses[rows]
            chunk = _run_chunk(h, w, targets[rows] - begin, options, dloss)
            losses[rows], is_correct[rows], dlogits = chunk
            if dhidden is not None and dw is not None and dlogits is not None:
                torch.mm(dlogits, w, out=dhidden[rows])
                if dw.dtype == h.dtype:
                    dw.addmm_(dlogits.T, h)
                else:
                    dw += dlogits.T @ h
            first = rows.stop
        if dweight is not None and dw is not None and dw.dtype != dweight.dtype:
            dweight[begin:end] += dw
    if order is not None:
        losses = losses.new_zeros(num_rows).index_copy_(0, order, losses)
        is_correct = is_correct.new_zeros(num_rows).index_copy_(0, order, is_correct)
        if dhidden is not None:
            empty = dhidden.new_zeros(num_rows, dhidden.shape[1])
            dhidden = empty.index_copy_(0, order, dhidden)
    return _Pass(losses, is_correct, dhidden, dweight)


def _run_chunk(
    h: Tensor, w: Tensor, target: Tensor, options: Options, dloss: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The losses, the hits and the gradient of the logits of rows that share a slice `w`."""
    smoothing, z_loss = options
    target = target[:, None]
    logits = (h @ w.T).float()
    at_target = logits.gather(1, target)
    peak = logits.amax(1, keepdim=True)
    mean = logits.mean(1, keepdim=True) if smoothing else 0.0
    exps = logits.sub_(peak).exp_()  # in place: one buffer of logits, reused up to their gradient
    total = exps.sum(1, keepdim=True)
    lse = total.log() + peak
    loss = lse - (1 - smoothing) * at_target - smoothing * mean + z_loss * lse.square()
    is_correct = at_target >= peak
    if dloss is None:
        return loss[:, 0], is_correct[:, 0], None
    dloss = dloss[:, None]
    dlogits = exps.mul_(dloss * (1 + 2 * z_loss * lse) / total)
    if smoothing:
        dlogits.sub_(dloss * (smoothing / len(w)))
    dlogits.scatter_add_(1, target, -(1 - smoothing) * dloss)
    return loss[:, 0], is_correct[:, 0], dlogits.to(h.dtype)


class LossesTorch(torch.autograd.Function):
    """(losses, is_correct) of `run_chunks`, differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        slices: Slices,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        ones = torch.ones(len(targets), device=hidden.device)
        done = run_chunks(hidden, weight, targets, slices, options, ones)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.slices, ctx.options = slices, options
        ctx.grads = done.dhidden, done.dweight
        ctx.mark_non_differentiable(done.is_correct)
        return done.losses, done.is_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dlosses = grads[0]
        ready, ctx.grads = ctx.grads, None  # used up: a second backward computes them again
        if len(dlosses) == 0 or (ready is not None and (dlosses == dlosses[0]).all()):
            dhidden, dweight = (x.mul_(dlosses[0]) if len(dlosses) else x for x in ready)
        else:
            hidden, weight, targets = ctx.saved_tensors
            done = run_chunks(hidden, weight, targets, ctx.slices, ctx.options, dlosses)
            dhidden, dweight = done.dhidden, done.dweight
        return dhidden, dweight, None, None, None
