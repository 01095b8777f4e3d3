"""Which implementation of an op runs, and on which device its kernels are launched."""

import functools
import importlib.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "triton"]  # of an op of this folder
Choice = Literal["cpp", "torch", "triton"]

MIN_PROGRAMS = 132  # wanted of a launch at least: one for each multiprocessor of an H100

_INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
_MIN_CAPABILITY = (7, 0)  # the oldest NVIDIA GPUs that Triton compiles for


def choose_backend(
    backend: str, device: torch.device, on_cpu: Literal["cpp", "torch"] = "torch"
) -> Choice:
    """Decides which implementation runs; the one place where "auto" has a meaning.

    "auto" takes `on_cpu` on a CPU, Triton on a CUDA device where it can run, and PyTorch elsewhere.
    On a CUDA device it says once on stderr which of the two it took.

    Args:
        backend: "auto", "torch", "triton", or "cpp" where the C++ core is a choice.
        device: Where the tensors are.
        on_cpu: What "auto" takes on a CPU; "cpp" makes the C++ core a choice.

    Raises:
        ValueError: There is no such backend.
        RuntimeError: "triton" is asked for on a device on which it cannot run.
    """
    names = ("auto", "cpp", "torch", "triton") if on_cpu == "cpp" else ("auto", "torch", "triton")
    if backend not in names:
        listed = ", ".join(map(repr, names[:-1]))
        raise ValueError(f"backend must be {listed} or 'triton', got {backend!r}")
    if backend == "cpp":
        return "cpp"
    if backend == "torch":
        return "torch"
    if backend == "triton":
        reason = _why_no_triton(device)
        if reason is not None:
            raise RuntimeError(f"backend='triton' needs {reason}")
        return "triton"
    return on_cpu if device.type == "cpu" else _choose_for_gpu(device)


def use_triton(x: Tensor, backend: Backend) -> bool:
    """Says whether an op's Triton kernel runs on `x`; see `choose_backend`.

    Raises:
        ValueError: There is no such backend.
        RuntimeError: "triton" is asked for on a device on which it cannot run.
    """
    return choose_backend(backend, x.device) == "triton"


def device_guard(x: Tensor) -> AbstractContextManager[object]:
    """Makes the GPU of `x` the current device, on which Triton launches; nothing elsewhere."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def all_registers() -> dict[str, int]:
    """A launch option, without which ptxas may spill a few bytes to fit one more block."""
    return {"maxnreg": 255} if torch.version.hip is None else {}


@functools.cache
def _choose_for_gpu(device: torch.device) -> Choice:
    reason = _why_no_triton(device)
    choice: Choice = "triton" if reason is None else "torch"
    suffix = "" if reason is None else f" (Triton needs {reason})"
    print(f"kernels: {choice} on {device}{suffix}", file=sys.stderr)
    return choice


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _why_no_triton(device: torch.device) -> str | None:
    """What Triton would need to run on a device; None where it can run."""
    if not _has_triton():
        return "the package triton: pip install 'store-engine[gpu]'"
    if _INTERPRET:
        return None
    if device.type != "cuda":
        return f"a CUDA tensor, got one on {device}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return "compute capability 7.0 or newer"
    return None
