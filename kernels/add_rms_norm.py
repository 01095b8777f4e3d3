"""The residual's sum and the RMSNorm that follows it, in one pass.

    sum    = x[rows] + residual[rows]
    normed = sum / sqrt(mean(sum^2) + eps) * weight

With `rows` it is an embedding's look-up too, or leaves out rows that nobody reads. The sum is
rounded to the dtype of `x`, as the residual stream is kept; all after it is float32 and rounded
once. One program takes one row. Memory-bound: x and the residual are read, both results written. No
backward: it serves decoding. Training takes liger-kernel's RMSNorm where it is installed
(model/layer_ops.py); its LigerFusedAddRMSNorm does the same sum, but also writes what a backward
needs, and rounds before the weight or not by a mode.
Source: Zhang & Sennrich 2019 (RMSNorm), https://arxiv.org/abs/1910.07467.
"""

import torch
from torch import Tensor

from store_engine.kernels._checks import FLOATS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton


def add_rms_norm_ref(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Defines the op, in plain PyTorch. Same arguments as `add_rms_norm`."""
    if rows is not None:
        at = rows.clamp(min=0)
        x, residual = x[at], residual if residual is None else residual[at]
    total = x if residual is None else x + residual
    exact = total.float()
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
    return (exact * scale * weight.float()).to(x.dtype), total


def add_rms_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    rows: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Adds the residual and normalises the sum.

    Args:
        x: (num_inputs, hidden_size), float32, float16 or bfloat16, contiguous.
        residual: Like `x`; None: nothing is added.
        weight: (hidden_size,), one of these dtypes.
        eps: Added to the mean square.
        rows: (num_rows,) int32, which rows of `x` and `residual` are taken, repeats allowed; below
            0 stands for none and takes the first. One beyond `x` is the caller's error, which the
            kernel does not look for. None: all, as they come.
        backend: See `_dispatch.choose_backend`.

    Returns:
        normed: (num_rows, hidden_size), the dtype of `x`.
        sum: Likewise; with neither a residual nor rows `x` itself.

    Raises:
        ValueError: A shape, a stride or a device does not fit.
        TypeError: A dtype does not fit.
    """
    if x.ndim != 2:
        raise ValueError(f"x must be (num_inputs, hidden_size), got {tuple(x.shape)}")
    check_tensor("x", x, x.shape, FLOATS, x.device)
    check_tensor("weight", weight, x.shape[1:], FLOATS, x.device)
    if residual is not None:
        check_tensor("residual", residual, x.shape, (x.dtype,), x.device)
    if rows is not None:
        check_tensor("rows", rows, (rows.numel(),), (torch.int32,), x.device)
    if not use_triton(x, backend):
        return add_rms_norm_ref(x, residual, weight, eps, rows)
    from store_engine.kernels.triton.add_rms_norm import launch_add_rms_norm

    return launch_add_rms_norm(x, residual, weight, eps, rows)
