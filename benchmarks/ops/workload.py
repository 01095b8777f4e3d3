"""One op on one shape: what kernels.py times, and what it costs at least."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from store_engine.testing import ATOL


@dataclass(frozen=True)
class Case:
    """One workload: what runs, and what it costs at least."""

    name: str  # ends in the dtype
    dtype: torch.dtype
    make: Callable[[], "Work"]
    is_slow: bool = False


class Work(NamedTuple):
    """Inputs made, ready to run."""

    inputs: list[Tensor]
    ours: Callable[..., Any]
    other: Callable[..., Any]
    check: Callable[[], None]
    flops: float
    num_bytes: float
    dout: Tensor | None = None  # gradient of the output; None: forward only
    other_name: str = "torch"
    liger: Callable[..., Any] | None = None
    triton: Callable[..., Any] | None = None  # our kernels by name, where they run


def short(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def op_work(
    op: Callable[..., Any],
    inputs: list[Tensor],
    num_bytes: float,
    flops: float,
    dout: Tensor | None = None,
    liger: Callable[..., Any] | None = None,
) -> Work:
    """An op with a `backend`: "auto", its definition, and its kernels."""
    ours, plain, triton = (partial(op, backend=name) for name in ("auto", "torch", "triton"))

    def check() -> None:
        got, want = (x if isinstance(x, Tensor) else x[0] for x in (ours(*inputs), plain(*inputs)))
        error = (got.float() - want.float()).abs().nan_to_num(0).max().item()
        assert error <= 4 * ATOL[inputs[0].dtype], f"error {error:.2e}"

    parts = inputs, ours, plain, check, flops, num_bytes
    return Work(*parts, dout, "ours_torch", liger, triton)
