"""Tensors as the arrays that the C++ core takes."""

import numpy as np
import torch
from torch import Tensor


def as_numpy(tensor: Tensor) -> np.ndarray:
    """Views a CPU tensor as an array; bfloat16, which numpy lacks, as its bits in uint16."""
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return (tensor.view(torch.uint16) if is_bfloat16 else tensor).numpy()
