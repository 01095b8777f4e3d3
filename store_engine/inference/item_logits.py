"""Logits of the items under a prefix: dot products of a state with their rows.

On a CPU the C++ core reads the rows where they are, elsewhere PyTorch gathers them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine import _C
from store_engine.inference.numpy_view import as_numpy

_CHUNK_NUMBERS = 1 << 24  # of rows that are gathered at once


def item_logits(states: Tensor, rows: Tensor, slots: Tensor, prefixes: Tensor) -> Tensor:
    """Computes the logits of every last code.

    Args:
        states: (batch, width, hidden_size), or (batch, 1, hidden_size): one for all prefixes of a
            request.
        rows: (num_slots, hidden_size), of the same dtype.
        slots: (num_prefixes, fanout) int32, the row of each last code; -1 stands for none.
        prefixes: (batch, width) int64; -1 stands for none.

    Returns:
        (batch, width, fanout) float32, -inf where there is no item; 0 for no prefix.
    """
    if states.device.type == "cpu" and states.dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(*prefixes.shape, slots.shape[1])
        arrays = (as_numpy(x.contiguous()) for x in (states, rows, slots, prefixes, out))
        _C.item_logits(*arrays, num_threads=torch.get_num_threads())
        return out
    return item_logits_ref(states, rows, slots, prefixes)


def item_logits_ref(states: Tensor, rows: Tensor, slots: Tensor, prefixes: Tensor) -> Tensor:
    """Defines `item_logits` in PyTorch, for any device and dtype. Same arguments."""
    width = prefixes.shape[1]
    chosen = slots[prefixes.clamp(min=0)].long()
    is_missing = (chosen < 0) & (prefixes >= 0)[:, :, None]
    chosen = chosen.clamp(min=0)
    if states.shape[1] == 1 and len(rows) <= 4 * chosen[0].numel():
        everything = F.linear(states[:, 0], rows)
        logits = everything.gather(1, chosen.flatten(1)).view_as(chosen).float()
    else:
        logits = _gathered(states.expand(-1, width, -1).flatten(0, 1), rows, chosen.flatten(0, 1))
        logits = logits.view_as(chosen)
    logits = logits.masked_fill(is_missing, -torch.inf)
    return logits.masked_fill((prefixes < 0)[:, :, None], 0.0)


def _gathered(states: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """Products of each state with its own rows: (num_beams, fanout) float32."""
    size = max(1, _CHUNK_NUMBERS // (chosen.shape[1] * rows.shape[1]))
    parts = zip(states.split(size), chosen.split(size), strict=True)
    products = [torch.bmm(rows[slots], state[:, :, None]) for state, slots in parts]
    return torch.cat(products)[:, :, 0].float()
