"""Packed causal attention: the one place that decides which kernel runs.

Sequences of different lengths lie one behind the other in a packed batch; `cu_seqlens` marks where
each begins. Linear layers never see padding. On CUDA flash-attn's varlen kernel reads the packed
layout directly. Elsewhere q, k and v alone are padded, neighbours of similar length together; the
padding stands at the end, where causal attention never looks. Packing sorts sequences by length:
few groups, little padding. On a CPU, groups of short sequences go through batched matrix products,
whose backward is several times faster than that of PyTorch's scaled_dot_product_attention (measured
on 2 cores: bf16 2.7 x at 180 tokens, 8 x at 36); longer ones, whose score matrices would be
large, and all groups on a GPU through the latter.
"""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels.grouped_heads import fold_heads, unfold_heads

# attend(layer_id, q, k, v): q (num_tokens, num_heads, head_dim), k and v (num_tokens,
# num_kv_heads, head_dim), RoPE applied -> (num_tokens, num_heads, head_dim)
AttentionFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# a group may be padded up to this multiple of its tokens; measured flat between 1.1 and 1.5
_MAX_PADDED = 1.25
# longest sequences that go through batched matrix products
_MAX_PRODUCTS = 512


class _Group(NamedTuple):
    """Consecutive sequences that are padded together."""

    begin: int  # first token
    end: int
    num_sequences: int
    length: int  # of the longest
    slots: Tensor | None  # (num_tokens,) place of each token once padded; None: no padding


class PackedSequences:
    """Causal attention within each sequence of one packed batch; serves as `AttentionFn`.

    Args:
        cu_seqlens: (num_sequences + 1,) int64 on the CPU, from 0 to num_tokens, ascending.
        device: Where q, k and v will be.

    Attributes:
        num_tokens: Of all sequences.
        num_pairs: Pairs of a token and one that it sees; itself counts.
        max_length: Tokens of the longest sequence.
        positions: (num_tokens,) int64 on `device`, restarting with each sequence.

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
        self.num_pairs = int((lengths * (lengths + 1)).sum()) // 2
        self.max_length = int(lengths.max())
        begins = torch.repeat_interleave(cu_seqlens[:-1], lengths)
        self.positions = (torch.arange(self.num_tokens) - begins).to(self.device)
        self._cu_seqlens = cu_seqlens
        self._lengths: list[int] = lengths.tolist()

    @classmethod
    def from_lengths(cls, lengths: Tensor, device: torch.device | str = "cpu") -> "PackedSequences":
        """Lays sequences of these lengths, (num_sequences,) int64 on the CPU, end to end."""
        return cls(F.pad(lengths.cumsum(0), (1, 0)), device)

    def to(self, device: torch.device | str) -> "PackedSequences":
        """Returns the same sequences for q, k and v on `device`."""
        if torch.device(device) == self.device:
            return self
        return self.map(lambda x: x.to(device))

    def map(self, move: Callable[[Tensor], Tensor]) -> "PackedSequences":
        """Returns the same sequences with all that the device needs moved there by `move`."""
        moved = copy.copy(self)
        moved.__dict__.pop("_groups", None)
        moved.positions, moved.bounds = move(self.positions), move(self.bounds)
        moved.device = moved.positions.device
        return moved

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends within each sequence. `layer_id` plays no part here."""
        if q.is_cuda and q.dtype != torch.float32 and (flash := _flash_attn()) is not None:
            bounds, longest = self.bounds, self.max_length
            out: Tensor = flash(q, k, v, bounds, bounds, longest, longest, causal=True)
            return out
        groups = [self._attend_group(g, q, k, v) for g in self._groups]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Where each sequence begins, and the end: (num_sequences + 1,) int32 on `device`."""
        return self._cu_seqlens.int().to(self.device)

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
                begins = torch.arange(last - first) * longest - (sizes.cumsum(0) - sizes)
                slots = torch.arange(num_tokens) + begins.repeat_interleave(sizes)
                slots = slots.to(self.device)
            groups.append(_Group(begin, begin + num_tokens, last - first, longest, slots))
            begin, first = begin + num_tokens, last
        return groups

    def _attend_group(self, group: _Group, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def padded(x: Tensor) -> Tensor:  # -> (num_sequences, length, heads, head_dim)
            x = x[group.begin : group.end]
            if group.slots is not None:
                buffer = x.new_zeros(group.num_sequences * group.length, *x.shape[1:])
                x = buffer.index_copy(0, group.slots, x)
            return x.view(group.num_sequences, group.length, *x.shape[1:])

        attend = _sdpa if q.is_cuda or group.length > _MAX_PRODUCTS else _products
        out = attend(padded(q), padded(k), padded(v)).flatten(0, 1)
        return out if group.slots is None else out.index_select(0, group.slots)


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of sequences of one length: (batch, length, heads, head_dim), as q."""
    # every query head its own copy: enable_gqa has no fused kernel on the CPU
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2).transpose(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True).transpose(1, 2)


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `_sdpa`, by batched matrix products; the query heads of a group share one product."""
    batch, length, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[2]
    # (batch * num_kv_heads, group * length, head_dim) and (batch * num_kv_heads, length, head_dim)
    rows = fold_heads(q, num_kv_heads).flatten(0, 1)
    keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))
    bias = _causal_bias(length, num_heads // num_kv_heads, q.dtype).expand(len(rows), -1, -1)
    scores = torch.baddbmm(bias, rows, keys.transpose(1, 2), alpha=head_dim**-0.5)
    out = torch.bmm(scores.softmax(-1), values).unflatten(0, (batch, num_kv_heads))
    return unfold_heads(out, length)


@functools.lru_cache(maxsize=16)
def _causal_bias(length: int, group: int, dtype: torch.dtype) -> Tensor:
    """(group * length, length): 0 where a query sees a key, else -inf."""
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1).repeat(group, 1)


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
