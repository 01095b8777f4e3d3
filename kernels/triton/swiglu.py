"""Triton kernel of `swiglu`."""

import triton
import triton.language as tl
from torch import Tensor

from store_engine.kernels._dispatch import device_guard

_BLOCK = 1024


@triton.jit
def _swiglu_kernel(gate_up_ptr, out_ptr, intermediate_size, BLOCK: tl.constexpr):
    """One tile of one row."""
    row = tl.program_id(0).to(tl.int64)
    dim = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_dim = dim < intermediate_size
    gate_up_ptr += row * 2 * intermediate_size
    gate = tl.load(gate_up_ptr + dim, is_dim, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + intermediate_size + dim, is_dim, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * intermediate_size + dim, gate * tl.sigmoid(gate) * up, is_dim)


def _launch_config(intermediate_size: int) -> dict[str, int]:
    """A thread holds 8 entries at most."""
    block = min(max(triton.next_power_of_2(intermediate_size), 128), _BLOCK)
    return {"BLOCK": block, "num_warps": max(block // 256, 1)}


def launch_swiglu(gate_up: Tensor) -> Tensor:
    """Does what `swiglu` does, for an argument that it has checked."""
    num_rows, intermediate_size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(num_rows, intermediate_size)
    if out.numel():
        config = _launch_config(intermediate_size)
        grid = num_rows, triton.cdiv(intermediate_size, config["BLOCK"])
        with device_guard(gate_up):
            _swiglu_kernel[grid](gate_up, out, intermediate_size, **config)
    return out
