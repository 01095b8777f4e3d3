"""Sets of items as bits: 32 to a word, as the kernels read them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pack_bitmask(is_allowed: Tensor) -> Tensor:
    """Packs booleans into int32 words; bit b of word w is entry 32 w + b.

    Args:
        is_allowed: (..., num_entries) bool.

    Returns:
        (..., ceil(num_entries / 32)) int32; the bits past the end are 0.
    """
    padded = F.pad(is_allowed, (0, -is_allowed.shape[-1] % 32))
    bits = torch.arange(32, device=is_allowed.device)
    words = (padded.unflatten(-1, (-1, 32)).long() << bits).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()  # two's complement
