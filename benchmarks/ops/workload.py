"""One op on one shape: what kernels.py times, and what it costs at least."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
