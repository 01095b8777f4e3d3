"""Packed causal attention: the one place that decides which kernel runs.

Sequences of different lengths lie one behind the other in a packed batch; `cu_seqlens` marks where
each begins. Linear layers never see padding. On CUDA flash-attn's varlen kernel reads the packed
layout directly; elsewhere q, k and v alone are padded for PyTorch's scaled_dot_product_attention,
neighbours of similar length together. The padding stands at the end, where causal attention never
looks, so no mask is needed either. Packing sorts sequences by length: few groups, little padding.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# attend(layer_id, q, k, v): q (num_tokens, num_heads, head_dim), k and v (num_tokens,
# num_kv_heads, head_dim), RoPE applied -> (num_tokens, num_heads, head_dim)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# a group may be padded up to this multiple of its tokens; measured flat between 1.1 and 1.5
_MAX_PADDED = 1.25


class _Group(NamedTuple):
    """Consecutive sequences that are padded together."""

    begin: int  # first token
    end: int
    num_sequences: int
    length: int  # of the longest
    slots: Tensor | None  # (num_tokens,) place of each token once padded; None: no padding


class PackedSequences:
    """Causal attention within each sequence of one packed batch; serves as `Attend`.

    Args:
        cu_seqlens: (num_sequences + 1,) int64 on the CPU, from 0 to num_tokens, ascending.
        device: Where q, k and v will be.

    Raises:
        ValueError: `cu_seqlens` is not of that form.
    """

    def __init__(self, cu_seqlens: Tensor, device: torch.device | str = "cpu") -> None:
        lengths = cu_seqlens.diff()
        if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or int(cu_seqlens[0]) != 0:
            raise ValueError("cu_seqlens must be 1-D, begin with 0 and hold at least one sequence")
        if bool((lengths < 1).any()):
            raise ValueError("cu_seqlens must ascend: a sequence has at least one token")
        self.device = torch.device(device)
        self.num_tokens = int(cu_seqlens[-1])
        self.max_length = int(lengths.max())
        begins = torch.repeat_interleave(cu_seqlens[:-1], lengths)
        self.positions = (torch.arange(self.num_tokens) - begins).to(self.device)
        self._cu_seqlens = cu_seqlens
        self._lengths: list[int] = lengths.tolist()

    def to(self, device: torch.device | str) -> "PackedSequences":
        """The same sequences for q, k and v on `device`."""
        if torch.device(device) == self.device:
            return self
        return PackedSequences(self._cu_seqlens, device)

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends within each sequence. `layer_id` plays no part here."""
        if q.is_cuda and q.dtype != torch.float32 and (flash := _flash_attn()) is not None:
            ends, longest = self._device_cu_seqlens, self.max_length
            out: Tensor = flash(q, k, v, ends, ends, longest, longest, causal=True)
            return out
        groups = [self._attend_group(g, q, k, v) for g in self._groups]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    @functools.cached_property
    def _device_cu_seqlens(self) -> Tensor:
        return self._cu_seqlens.to(self.device, torch.int32)

    @functools.cached_property
    def _groups(self) -> list[_Group]:
        groups: list[_Group] = []
        lengths, first, begin = self._lengths, 0, 0
        while first < len(lengths):
            last, longest, num_tokens = first, 0, 0
            while last < len(lengths):
                longer = max(longest, lengths[last])
                padded = longer * (last + 1 - first)
                if last > first and padded > _MAX_PADDED * (num_tokens + lengths[last]):
                    break
                longest, num_tokens, last = longer, num_tokens + lengths[last], last + 1
            slots = None
            if num_tokens != longest * (last - first):
                sizes = torch.tensor(lengths[first:last])
                row = torch.repeat_interleave(torch.arange(last - first), sizes)
                positions = self.positions[begin : begin + num_tokens].cpu()
                slots = (row * longest + positions).to(self.device)
            groups.append(_Group(begin, begin + num_tokens, last - first, longest, slots))
            begin, first = begin + num_tokens, last
        return groups

    def _attend_group(self, group: _Group, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def padded(x: Tensor) -> Tensor:  # -> (num_sequences, num_heads, length, head_dim)
            x = x[group.begin : group.end]
            if group.slots is not None:
                room = x.new_zeros(group.num_sequences * group.length, *x.shape[1:])
                x = room.index_copy(0, group.slots, x)
            x = x.view(group.num_sequences, group.length, *x.shape[1:]).transpose(1, 2)
            # every query head its own copy: enable_gqa has no fused kernel on the CPU
            return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)

        out = F.scaled_dot_product_attention(padded(q), padded(k), padded(v), is_causal=True)
        out = out.transpose(1, 2).flatten(0, 1)
        return out if group.slots is None else out.index_select(0, group.slots)


@functools.cache
def _flash_attn() -> Callable[..., Tensor] | None:
    """flash-attn's varlen kernel where it is installed; says once which choice was made."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        print("attention: flash-attn is not installed, using scaled_dot_product_attention")
        return None
    print("attention: flash-attn varlen")
    chosen: Callable[..., Tensor] = flash_attn_varlen_func
    return chosen
