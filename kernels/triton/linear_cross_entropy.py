"""Triton kernels of `linear_cross_entropy`: losses, and the gradients of both inputs."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from store_engine.kernels._dispatch import MIN_PROGRAMS, device_guard


# fmt: off
@triton.jit
def _load_rows(plan_ptr, tile, num_rows, BLOCK_T: tl.constexpr):
    """Row id, start, end and target of a tile of rows; a row past the last one has end 0."""
    at = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    mask = at < num_rows
    row = tl.load(plan_ptr + at, mask, other=0).to(tl.int64)
    start = tl.load(plan_ptr + num_rows + at, mask, other=0)
    end = tl.load(plan_ptr + 2 * num_rows + at, mask, other=0)
    target = tl.load(plan_ptr + 3 * num_rows + at, mask, other=0)
    return row, mask, start, end, target


@triton.jit
def _inner_products(
    a_ptr, a_row, a_mask, b_ptr, b_row, b_mask, hidden_size,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):
    """[BLOCK_A, BLOCK_B] inner products of rows of a and rows of b, both hidden_size wide."""
    acc = tl.zeros([BLOCK_A, BLOCK_B], tl.float32)
    for first in range(0, hidden_size, BLOCK_D):
        dims = first + tl.arange(0, BLOCK_D)
        is_dim = dims < hidden_size
        a = tl.load(
            a_ptr + a_row[:, None] * hidden_size + dims[None, :], a_mask[:, None] & is_dim[None, :],
            other=0.0,
        )
        b = tl.load(
            b_ptr + b_row[None, :] * hidden_size + dims[:, None], b_mask[None, :] & is_dim[:, None],
            other=0.0,
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _add_product(
    out_ptr, out_row, out_mask, x, b_ptr, b_row, b_mask, hidden_size,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):
    """Adds x @ b, hidden_size wide, to rows of out (float32) that no other program touches."""
    for first in range(0, hidden_size, BLOCK_D):
        dims = first + tl.arange(0, BLOCK_D)
        is_dim = dims < hidden_size
        b = tl.load(
            b_ptr + b_row[:, None] * hidden_size + dims[None, :], b_mask[:, None] & is_dim[None, :],
            other=0.0,
        )
        out_ptrs = out_ptr + out_row[:, None] * hidden_size + dims[None, :]
        mask = out_mask[:, None] & is_dim[None, :]
        product = tl.dot(x.to(b.dtype), b, input_precision=PRECISION)
        tl.store(out_ptrs, tl.load(out_ptrs, mask, other=0.0) + product, mask)
    tl.debug_barrier()  # the next tile reads what other threads wrote here


@triton.jit
def _dlogits(logits, col, start, end, target, lse, dloss):
    """The gradient of a tile of logits; row and column arguments come ready to broadcast."""
    grad = tl.exp(logits - lse) - tl.where(col == target, 1.0, 0.0)
    return tl.where((col >= start) & (col < end), dloss * grad, 0.0)


@triton.jit(do_not_specialize=["num_rows"])
def _linear_cross_entropy_fwd_kernel(
    hidden_ptr, weight_ptr, plan_ptr, losses_ptr, lse_ptr, bounds_ptr, num_rows, hidden_size,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):
    """One tile of rows walks over all tiles of columns that any of its rows needs."""
    tile = tl.program_id(0)
    row, mask, start, end, target = _load_rows(plan_ptr, tile, num_rows, BLOCK_T)
    # nothing from begin to stop if all are ignored
    begin = tl.min(tl.where(end > start, start, 2147483647))
    stop = tl.max(end)
    tl.store(bounds_ptr + 2 * tile, begin)
    tl.store(bounds_ptr + 2 * tile + 1, stop)
    peak = tl.full([BLOCK_T], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    at_target = tl.zeros([BLOCK_T], tl.float32)
    for first in range(begin, stop, BLOCK_V):
        col = first + tl.arange(0, BLOCK_V)
        logits = _inner_products(
            hidden_ptr, row, mask, weight_ptr, col.to(tl.int64), col < stop, hidden_size, BLOCK_T,
            BLOCK_V, BLOCK_D, PRECISION,
        )
        is_inside = (col[None, :] >= start[:, None]) & (col[None, :] < end[:, None])
        at_target += tl.sum(tl.where(col[None, :] == target[:, None], logits, 0.0), 1)
        logits = tl.where(is_inside, logits, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # a row not reached yet
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        peak = new_peak
    is_kept = end > start
    lse = tl.where(is_kept, peak, 0.0) + tl.log(tl.where(is_kept, total, 1.0))
    tl.store(losses_ptr + row, tl.where(is_kept, lse - at_target, 0.0), mask)
    tl.store(lse_ptr + row, lse, mask)


@triton.jit(do_not_specialize=["num_rows"])
def _linear_cross_entropy_dhidden_kernel(
    hidden_ptr, weight_ptr, plan_ptr, lse_ptr, dlosses_ptr, bounds_ptr, dhidden_ptr, num_rows,
    hidden_size,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):
    """One tile of rows adds to its rows of dhidden: (num_rows, hidden_size) float32, zeros."""
    tile = tl.program_id(0)
    row, mask, start, end, target = _load_rows(plan_ptr, tile, num_rows, BLOCK_T)
    lse = tl.load(lse_ptr + row, mask, other=0.0)[:, None]
    dloss = tl.load(dlosses_ptr + row, mask, other=0.0)[:, None]
    stop = tl.load(bounds_ptr + 2 * tile + 1)
    for first in range(tl.load(bounds_ptr + 2 * tile), stop, BLOCK_V):
        col = first + tl.arange(0, BLOCK_V)
        weight_row = col.to(tl.int64)
        logits = _inner_products(
            hidden_ptr, row, mask, weight_ptr, weight_row, col < stop, hidden_size, BLOCK_T,
            BLOCK_V, BLOCK_D, PRECISION,
        )
        dlogits = _dlogits(
            logits, col[None, :], start[:, None], end[:, None], target[:, None], lse, dloss,
        )
        _add_product(
            dhidden_ptr, row, mask, dlogits, weight_ptr, weight_row, col < stop, hidden_size,
            BLOCK_D, PRECISION,
        )


@triton.jit(do_not_specialize=["num_rows", "num_tiles"])
def _linear_cross_entropy_dweight_kernel(
    hidden_ptr, weight_ptr, plan_ptr, lse_ptr, dlosses_ptr, bounds_ptr, dweight_ptr, num_rows,
    num_tiles, vocab_size, hidden_size,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):
    """One tile of columns, for every num_splits-th tile of rows: dweight[split] += its share.

    dweight is (num_splits, vocab_size, hidden_size) float32, zeros; splits keep a GPU busy where
    the vocabulary has few tiles.
    """
    first = tl.program_id(0) * BLOCK_V
    split = tl.program_id(1)
    col = first + tl.arange(0, BLOCK_V)
    is_col = col < vocab_size
    weight_row = col.to(tl.int64)
    dweight_ptr += split.to(tl.int64) * vocab_size * hidden_size
    for tile in range(split, num_tiles, tl.num_programs(1)):
        begin = tl.load(bounds_ptr + 2 * tile)
        stop = tl.load(bounds_ptr + 2 * tile + 1)
        if (begin < first + BLOCK_V) & (stop > first):
            row, mask, start, end, target = _load_rows(plan_ptr, tile, num_rows, BLOCK_T)
            lse = tl.load(lse_ptr + row, mask, other=0.0)[None, :]
            dloss = tl.load(dlosses_ptr + row, mask, other=0.0)[None, :]
            logits = _inner_products(
                weight_ptr, weight_row, is_col, hidden_ptr, row, mask, hidden_size, BLOCK_V,
                BLOCK_T, BLOCK_D, PRECISION,
            )
            dlogits = _dlogits(
                logits, col[:, None], start[None, :], end[None, :], target[None, :], lse, dloss,
            )
            _add_product(
                dweight_ptr, weight_row, is_col, dlogits, hidden_ptr, row, mask, hidden_size,
                BLOCK_D, PRECISION,
            )
# fmt: on


def _launch_config(dtype: torch.dtype) -> dict[str, Any]:
    """Tiles that spill no register on sm_80, sm_90 and gfx942 (results/kernels_resources.csv).

    Neither under Triton 3.6 nor 3.9; 64 float32 rows do, under one of them or the other.
    """
    if dtype is torch.float32:
        is_exact = torch.get_float32_matmul_precision() == "highest"
        precision = "ieee" if is_exact else "tf32"
        tiles = {"BLOCK_T": 32, "BLOCK_V": 64, "BLOCK_D": 16, "PRECISION": precision}
        return {**tiles, "num_warps": 8, "num_stages": 3}
    tiles = {"BLOCK_T": 64, "BLOCK_V": 128, "BLOCK_D": 64, "PRECISION": "ieee"}
    return {**tiles, "num_warps": 8, "num_stages": 3}


class LossesTriton(torch.autograd.Function):
    """The losses of (num_rows, hidden_size) rows by the plan that `linear_cross_entropy` made."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, plan: Tensor) -> Tensor:
        """Returns the losses, (num_rows,) float32."""
        num_rows, hidden_size = hidden.shape
        config = _launch_config(hidden.dtype)
        num_tiles = triton.cdiv(num_rows, config["BLOCK_T"])
        losses, lse = hidden.new_empty(2, num_rows, dtype=torch.float32)
        bounds = plan.new_empty(num_tiles, 2)
        with device_guard(hidden):
            _linear_cross_entropy_fwd_kernel[(num_tiles,)](
                hidden, weight, plan, losses, lse, bounds, num_rows, hidden_size, **config
            )
        ctx.save_for_backward(hidden, weight, plan, lse, bounds)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Returns the gradients that are wanted, of `hidden` and `weight`."""
        hidden, weight, plan, lse, bounds = ctx.saved_tensors
        num_rows, hidden_size = hidden.shape
        config = _launch_config(hidden.dtype)
        num_tiles, num_col_tiles = len(bounds), triton.cdiv(len(weight), config["BLOCK_V"])
        inputs = hidden, weight, plan, lse, grads[0].contiguous(), bounds
        dhidden = dweight = None
        with device_guard(hidden):
            if ctx.needs_input_grad[0]:
                dhidden = torch.zeros_like(hidden, dtype=torch.float32)
                _linear_cross_entropy_dhidden_kernel[(num_tiles,)](
                    *inputs, dhidden, num_rows, hidden_size, **config
                )
                dhidden = dhidden.to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                num_splits = max(min(num_tiles, MIN_PROGRAMS // num_col_tiles), 1)
                sizes = num_rows, num_tiles, len(weight), hidden_size
                dweight = weight.new_zeros(num_splits, *weight.shape, dtype=torch.float32)
                _linear_cross_entropy_dweight_kernel[(num_col_tiles, num_splits)](
                    *inputs, dweight, *sizes, **config
                )
                dweight = dweight.sum(0).to(weight.dtype)
        return dhidden, dweight, None
