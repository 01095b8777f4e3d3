"""Packed causal attention: the one place that decides which kernel runs.

Sequences of different lengths lie one behind the other in a packed batch; `cu_seqlens` marks where
each begins. Linear layers never see padding. On CUDA a varlen kernel reads the packed layout
directly: PyTorch's (2.10 or newer), else flash-attn's; both compute in half precision alone.
Elsewhere q, k and v alone are padded, neighbours of similar length together; the padding stands at
the end, where causal attention never looks. Packing sorts sequences by length: few groups, little
padding. On a CPU, groups of short sequences go through batched matrix products, whose backward is
several times faster than that of PyTorch's scaled_dot_product_attention (measured on 2 cores: bf16
2.7 x at 180 tokens, 8 x at 36); longer ones, whose score matrices would be large, and all groups on
a GPU through the latter.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.kernels.grouped_heads import fold_heads, unfold_heads

# attend(layer_id, q, k, v): q (num_tokens, num_heads, head_dim), k and v (num_tokens,
# num_kv_heads, head_dim), RoPE applied -> (num_tokens, num_heads, head_dim)
AttentionFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# attend(q, k, v, bounds, longest): causal, within sequences that begin at `bounds` (int32)
_Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
_VARLEN_CAPABILITY = (8, 0)  # the oldest NVIDIA GPUs that these kernels run on
# a varlen kernel takes bounds and lengths up to multiples of these: few shapes to compile for
_SEQUENCES = 64
_LENGTH = 128

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
        self._dtype: torch.dtype | None = None  # what it is prepared for
        self._varlen: _Varlen | None = None

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
        moved._dtype = None
        moved.positions, moved.bounds = move(self.positions), move(self.bounds)
        moved.device = moved.positions.device
        return moved

    def padded(self, multiple: int) -> "PackedSequences":
        """Returns these sequences and one of what is missing to a multiple of that many tokens."""
        num_missing = -self.num_tokens % multiple
        if not num_missing:
            return self
        end = self._cu_seqlens.new_tensor([self.num_tokens + num_missing])
        return PackedSequences(torch.cat([self._cu_seqlens, end]), self.device)

    def prepare(self, dtype: torch.dtype) -> None:
        """Makes what all layers share; within a layer that torch.compile traces it cannot."""
        self._dtype = dtype
        self._varlen = _varlen(self.device, dtype) if self.positions.is_cuda else None
        _ = self._groups if self._varlen is None else self.bounds

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends within each sequence. `layer_id` plays no part here."""
        if self._dtype != q.dtype:
            self.prepare(q.dtype)
        if self._varlen is not None:
            return self._varlen(q, k, v, self.bounds, self._longest)
        groups = [self._attend_group(g, q, k, v) for g in self._groups]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Where each sequence begins, and the end: int32 on `device`, the end several times."""
        num_empty = -len(self._lengths) % _SEQUENCES
        bounds = F.pad(self._cu_seqlens, (0, num_empty), value=self.num_tokens)
        return bounds.int().to(self.device)

    @property
    def _longest(self) -> int:
        return -(-self.max_length // _LENGTH) * _LENGTH

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


def pad_tokens(
    tokens: Tensor, sequences: PackedSequences, multiple: int
) -> tuple[Tensor, PackedSequences]:
    """Pads a packed batch, (num_tokens,) and where its sequences begin, by a sequence of zeros.

    Nothing of the others sees it; without a target it has no loss and no gradient.
    """
    padded = sequences.padded(multiple)
    return F.pad(tokens, (0, padded.num_tokens - sequences.num_tokens)), padded


@functools.cache
def _varlen(device: torch.device, dtype: torch.dtype) -> _Varlen | None:
    """The varlen kernel for a device, if there is one; says once which choice was made."""
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _VARLEN_CAPABILITY:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return _flash_attn()
    print("attention: PyTorch's varlen")
    return _of_torch(varlen_attn)


def _of_torch(varlen_attn: Callable[..., Any]) -> _Varlen:
    """PyTorch's kernel; how it is told of causality and of grouped heads changed with versions."""
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)}
    if "window_size" not in known:
        causal = {"is_causal": True}
    if is_grouped := "enable_gqa" in known:
        causal["enable_gqa"] = True

    def attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
        if not is_grouped:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        out: Tensor = varlen_attn(q, k, v, bounds, bounds, longest, longest, **causal)
        return out

    return attend


def _flash_attn() -> _Varlen | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        print("attention: no varlen kernel is installed, using scaled_dot_product_attention")
        return None
    print("attention: flash-attn varlen")

    def attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
        ends, lengths = (bounds, bounds), (longest, longest)
        out: Tensor = flash_attn_varlen_func(q, k, v, *ends, *lengths, causal=True)
        return out

    return attend
