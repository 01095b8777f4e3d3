"""Fused linear + cross-entropy, each row over its own slice of the vocabulary; no logits are kept.

    z_j  = hidden . weight_j                         for start <= j < start + length
    lse  = log sum_j exp(z_j)
    loss = lse - z_target
    dz_j = exp(z_j - lse) - [j = target]

`linear_cross_entropy_ref` materialises (num_rows, vocab_size) logits. Three paths keep none:

* PyTorch: chunk by chunk (_linear_cross_entropy_chunks.py), 3 GEMMs, rows grouped by their slice.
* Triton, trained, one slice for all rows (`start` and `length` are ints): the same chunks, whose
  losses and gradients one kernel makes in place. 3 GEMMs for a sum or a mean, 4 for `none`.
* Triton else: an online softmax over vocabulary tiles, which recomputes the logits in the backward.
  Rows are sorted by slice, so that rows of mixed slices share one launch and none is multiplied by
  another's. 1 GEMM forward, 5 in all. Each gradient entry belongs to one program.

All are deterministic where the library's GEMM is, and compute-bound. liger-kernel's fused loss has
the chunks' form, but one softmax over the whole weight for every row, no slices, and its gradients
are right for one scalar loss alone; so this one is ours.
Source: Wijmans et al. 2024 (Cut Cross-Entropy), https://arxiv.org/abs/2411.09009; Hsu et al. 2024
(Liger Kernel), https://arxiv.org/abs/2410.10989.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from store_engine.kernels._dispatch import Backend, use_triton
from store_engine.kernels._linear_cross_entropy_chunks import (
    TORCH,
    ChunkedLosses,
    Slices,
    as_rows,
    run_chunks,
    slices_of,
)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Reduction = Literal["none", "sum", "mean"]


def linear_cross_entropy_ref(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    start: Tensor | int = 0,
    length: Tensor | int | None = None,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `linear_cross_entropy`."""
    start, length = as_rows(start, len(weight) - start if length is None else length, targets)
    is_kept = targets != ignore_index
    hidden, kept, start, length = hidden[is_kept], targets[is_kept], start[is_kept], length[is_kept]
    logits = F.linear(hidden, weight).float()
    cols = torch.arange(len(weight), device=hidden.device)
    is_inside = (cols >= start[:, None]) & (cols < (start + length)[:, None])
    lse = logits.masked_fill(~is_inside, -float("inf")).logsumexp(-1)
    at_target = logits.gather(-1, kept[:, None])[:, 0]
    losses = torch.zeros(len(targets), device=hidden.device)
    losses = losses.masked_scatter(is_kept, lse - at_target)
    if reduction == "none":
        return losses
    return losses.sum() / (max(len(kept), 1) if reduction == "mean" else 1)


class _NoRows(torch.autograd.Function):
    """The losses of no rows. Gradients of 0 flow, so that every rank of a training has them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        # one zero, seen as a whole matrix: nothing is written
        ctx.grads = torch.zeros_like(hidden), weight.new_zeros(()).expand(weight.shape)
        return hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        pairs = zip(ctx.grads, ctx.needs_input_grad, strict=True)
        return tuple(grad if is_needed else None for grad, is_needed in pairs)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    start: Tensor | int = 0,
    length: Tensor | int | None = None,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the cross-entropy of `hidden @ weight.T`, each row over its own slice of `weight`.

    Args:
        hidden: (num_rows, hidden_size), float32, float16 or bfloat16; the dtype of `weight`, unless
            autocast is on, which then casts both.
        weight: (vocab_size, hidden_size).
        targets: (num_rows,) int64, the target's row of `weight`, or `ignore_index`.
        start: First row of `weight` in a row's softmax: an int, or (num_rows,) integers.
        length: Number of rows of `weight` from there on; by default all that follow. Neither is
            looked at where the target is `ignore_index`.
        reduction: "mean" is over the rows that are not ignored, and 0 if there are none.
        ignore_index: The target of a row without loss and without gradient.
        backend: "auto" runs the Triton kernels on CUDA tensors and PyTorch elsewhere.

    Returns:
        float32: () or, with reduction="none", (num_rows,), 0 where ignored. On a GPU the loss of a
        row whose slice reaches outside `weight`, or whose target lies outside its slice, is NaN,
        and it has no gradient: the host does not wait to hear of it.

    Raises:
        ValueError: A shape or an option does not fit; but on a GPU, a slice reaches outside
            `weight`, or a target lies outside its slice.
        TypeError: A dtype does not fit.
    """
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be 'none', 'sum' or 'mean', got {reduction!r}")
    are_scaled = reduction != "none"  # the gradients of all losses will be equal
    losses = _losses(hidden, weight, targets, (start, length), ignore_index, backend, are_scaled)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / (targets != ignore_index).sum().clamp(min=1)


def _losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bounds: tuple[Tensor | int, Tensor | int | None],
    ignore_index: int,
    backend: Backend,
    are_scaled: bool,
) -> Tensor:
    """Checks the arguments and computes the loss of every row."""
    start, length = bounds
    length = len(weight) - start if length is None else length
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    _check_inputs(hidden, weight, targets, start, length)
    is_triton = use_triton(hidden, backend)
    if not len(hidden):
        losses: Tensor = _NoRows.apply(hidden, weight)
        return losses
    is_kept = targets != ignore_index
    is_bad = _bad_rows(targets, start, length, is_kept, len(weight))
    if not is_bad.is_cuda:
        return _kept_losses(
            hidden, weight, targets, (start, length), is_kept, is_triton, are_scaled
        )
    is_kept = is_kept > is_bad  # and not
    losses = _kept_losses(hidden, weight, targets, (start, length), is_kept, is_triton, are_scaled)
    return losses.masked_fill(is_bad, torch.nan)


def _kept_losses(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bounds: tuple[Tensor | int, Tensor | int],
    is_kept: Tensor,
    is_triton: bool,
    are_scaled: bool,
) -> Tensor:
    """The losses of the rows that are kept, by the path that fits; 0 for the others."""
    start, length = bounds
    losses: Tensor
    is_trained = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if not is_triton:
        how, slices = TORCH, slices_of(start, length, is_kept)
    elif is_trained and isinstance(start, int) and isinstance(length, int):
        from store_engine.kernels.triton.cross_entropy_rows import TRITON as how

        # rows without a target stay, else the host would wait for their number
        targets = targets.masked_fill(~is_kept, -1)
        slices = Slices(None, [(start, start + length, len(targets))])
    else:
        from store_engine.kernels.triton.linear_cross_entropy import LossesTriton

        plan = _plan(targets, start, length, is_kept)
        losses = LossesTriton.apply(hidden.contiguous(), weight.contiguous(), plan)
        return losses
    if not is_trained:
        return run_chunks(hidden, weight, targets, slices, how).losses
    losses = ChunkedLosses.apply(hidden, weight, targets, slices, how, are_scaled)
    return losses


def _plan(targets: Tensor, start: Tensor | int, length: Tensor | int, is_kept: Tensor) -> Tensor:
    """What the kernels read: (4, num_rows) int32 of row id, start, end and target.

    Rows are sorted by start, so that a tile of rows needs few tiles of columns. Ignored rows come
    last and have nothing between start and end.
    """
    start, length = as_rows(start, length, targets)
    end = torch.where(is_kept, start + length, 0)
    order = torch.where(is_kept, start, torch.iinfo(torch.int32).max).argsort(stable=True)
    return torch.stack([order, start[order], end[order], targets[order]]).int()


def _check_inputs(
    hidden: Tensor, weight: Tensor, targets: Tensor, start: Tensor | int, length: Tensor | int
) -> None:
    """Raises on shapes and dtypes that do not fit."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden must be (num_rows, hidden_size) and weight (vocab_size, hidden_size), "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype or hidden.dtype not in _DTYPES:
        raise TypeError(
            "hidden and weight must both be float32, float16 or bfloat16, "
            f"got {hidden.dtype} and {weight.dtype}"
        )
    if targets.dtype is not torch.int64:
        raise TypeError(f"targets must be int64, got {targets.dtype}")
    for name, x in (("targets", targets), ("start", start), ("length", length)):
        if isinstance(x, Tensor) and x.shape != hidden.shape[:1]:
            raise ValueError(f"{name} must be ({len(hidden)},), got {tuple(x.shape)}")
        if isinstance(x, Tensor) and (x.is_floating_point() or x.dtype is torch.bool):
            raise TypeError(f"{name} must hold integers, got {x.dtype}")


def _bad_rows(
    targets: Tensor,
    start: Tensor | int,
    length: Tensor | int,
    is_kept: Tensor,
    vocab_size: int,
) -> Tensor:
    """Says which slices reach outside the weight or miss their target: (num_rows,) bool.

    Raises:
        ValueError: One does, and looking at it needs no wait for a GPU.
    """
    end = start + length
    is_bad_slice = is_kept & ((start < 0) | (length < 1) | (end > vocab_size))
    is_bad_target = is_kept & ((targets < start) | (targets >= end))
    is_bad = is_bad_slice | is_bad_target
    if not is_bad.is_cuda and is_bad.any():
        row = int(is_bad.nonzero()[0])
        starts, lengths = as_rows(start, length, targets)
        where = f"[{int(starts[row])}, {int(starts[row] + lengths[row])})"
        if is_bad_slice[row]:
            raise ValueError(
                f"row {row}: slice {where} must not be empty, nor reach outside [0, {vocab_size})"
            )
        raise ValueError(f"row {row}: target {int(targets[row])} is outside its slice {where}")
    return is_bad
