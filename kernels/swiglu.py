"""The gated activation of an MLP, from one product that holds both halves.

    out = silu(gate) * up,  silu(x) = x / (1 + exp(-x))

Computed in float32 and rounded once. Elementwise and memory-bound: both halves are read, one is
written. No backward: it serves decoding. liger-kernel's LigerSiLUMul takes gate and up as two
contiguous tensors; the halves of one product would first be copied, so this one is ours.
Source: Shazeer 2020, https://arxiv.org/abs/2002.05202.
"""

import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels._checks import FLOATS, check_tensor
from store_engine.kernels._dispatch import Backend, use_triton


def swiglu_ref(gate_up: Tensor) -> Tensor:
    """Defines the op, in plain PyTorch. Same arguments as `swiglu`."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def swiglu(gate_up: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Applies silu to the first half of every row and multiplies by the second.

    Args:
        gate_up: (num_rows, 2 * intermediate_size), float32, float16 or bfloat16, contiguous.
        backend: See `_dispatch.choose_backend`.

    Returns:
        (num_rows, intermediate_size), the dtype of `gate_up`.

    Raises:
        ValueError: The shape or the strides do not fit.
        TypeError: The dtype does not fit.
    """
    if gate_up.ndim != 2 or gate_up.shape[1] % 2:
        raise ValueError(
            f"gate_up must be (num_rows, 2 * intermediate_size), got {tuple(gate_up.shape)}"
        )
    check_tensor("gate_up", gate_up, gate_up.shape, FLOATS, gate_up.device)
    if not use_triton(gate_up, backend):
        return swiglu_ref(gate_up)
    from store_engine.kernels.triton.swiglu import launch_swiglu

    return launch_swiglu(gate_up)
