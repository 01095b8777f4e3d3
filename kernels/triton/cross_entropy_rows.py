"""Triton kernel of the chunks of `linear_cross_entropy`: losses of rows, gradients in place."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard
from store_engine.kernels._linear_cross_entropy_chunks import Chunking
from store_engine.kernels.triton.masked_softmax import _launch_config
from store_engine.kernels.triton.online_softmax import add_tile, log_sum


# fmt: off
@triton.jit
def _cross_entropy_rows_kernel(
    logits_ptr, targets_ptr, dlosses_ptr, losses_ptr, length,
    GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row, read for its log-sum-exp, and once more to be replaced by its gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * length
    target = tl.load(targets_ptr + row)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for first in range(0, length, BLOCK):
        col = first + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + col, col < length, other=float("-inf")).to(tl.float32)
        peak, total = add_tile(peak, total, x)
    lse = log_sum(peak, total)
    at_target = tl.load(logits_ptr + target, target >= 0, other=0.0).to(tl.float32)
    tl.store(losses_ptr + row, tl.where(target >= 0, lse - at_target, 0.0))
    if GRADIENT:
        dloss = tl.load(dlosses_ptr + row)
        tl.debug_barrier()  # all threads have read the target's logit
        for first in range(0, length, BLOCK):
            col = first + tl.arange(0, BLOCK)
            x = tl.load(logits_ptr + col, col < length, other=float("-inf")).to(tl.float32)
            grad = dloss * (tl.exp(x - lse) - tl.where(col == target, 1.0, 0.0))
            tl.store(logits_ptr + col, tl.where(target >= 0, grad, 0.0), col < length)
# fmt: on


def losses_triton(logits: Tensor, target: Tensor, dloss: Tensor | None) -> Tensor:
    """The `Chunking.losses` of one launch."""
    num_rows, length = logits.shape
    losses = torch.empty(num_rows, device=logits.device)
    dlosses = losses if dloss is None else dloss  # not read without gradients
    config = _launch_config(length)
    with device_guard(logits):
        _cross_entropy_rows_kernel[(num_rows,)](
            logits, target, dlosses, losses, length, GRADIENT=dloss is not None, **config
        )
    return losses


# 512 rows of a text vocabulary, about what an L2 cache holds; all rows of a codebook
TRITON = Chunking(losses_triton, num_logits=1 << 25, num_rows=512, gradient_rows=1 << 31)
