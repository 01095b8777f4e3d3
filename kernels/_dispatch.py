"""Which implementation of an op runs."""

import os
from typing import Literal

from torch import Tensor

Backend = Literal["auto", "torch", "triton"]

_INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(x: Tensor, backend: Backend) -> bool:
    """True if the Triton kernel should run on `x`; "auto" picks it on CUDA only.

    Raises:
        ValueError: `backend` is none of the three.
        RuntimeError: "triton" is asked for, with neither a CUDA tensor nor the interpreter.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'triton', got {backend!r}")
    if backend == "auto":
        return x.is_cuda
    if backend == "triton" and not (x.is_cuda or _INTERPRET):
        raise RuntimeError(f"backend='triton' needs a CUDA tensor, got one on {x.device}")
    return backend == "triton"
