"""Liger's ops beside ours: each None without a GPU, or where Liger is not installed."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor

Op = Callable[..., Any]


def liger_loss(targets: Tensor) -> Op | None:
    """Its fused loss as (hidden, weight)."""
    make = _find("transformers", "LigerFusedLinearCrossEntropyLoss", targets)
    if make is None:
        return None
    loss = make()
    return lambda hidden, weight: loss(weight, hidden, targets)


def liger_add_rms_norm(x: Tensor, eps: float) -> Op | None:
    """Its op of the same name, all but the sum in float32."""
    function = _find("ops.fused_add_rms_norm", "LigerFusedAddRMSNormFunction", x)
    offset, casting_mode = 0.0, "gemma"
    return function and (lambda *inputs: function.apply(*inputs, eps, offset, casting_mode))


def liger_swiglu(x: Tensor) -> Op | None:
    """Its SwiGLU of both halves."""
    function = _find("ops.swiglu", "LigerSiLUMulFunction", x)
    return function and (lambda x: function.apply(*(part.contiguous() for part in x.chunk(2, 1))))


def _find(module: str, name: str, input: Tensor) -> Any:
    if not input.is_cuda or importlib.util.find_spec("liger_kernel") is None:
        return None
    return getattr(importlib.import_module(f"liger_kernel.{module}"), name)
