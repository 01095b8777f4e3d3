"""What an op asks of a tensor before a kernel reads its memory."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int32, torch.int64)


def check_tensor(
    name: str,
    x: Tensor,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
    *,
    is_contiguous: bool = True,
) -> None:
    """Refuses a tensor that a kernel would read wrongly; looks at no value.

    Args:
        name: What the op calls it.
        x: The tensor.
        shape: What it must have.
        dtypes: The ones that the op takes.
        device: Where it must be.
        is_contiguous: Whether it must be.

    Raises:
        ValueError: The shape, the device or the strides do not fit.
        TypeError: The dtype does not fit.
    """
    if x.shape != shape:
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(x.shape)}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"{name} must be on {device}, got {x.device}")
    if is_contiguous and not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {x.stride()}")
