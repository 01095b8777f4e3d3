"""Attention of new tokens to a KV cache, which they first join: of contexts, and of beam trees.

Both do it in two ways. Called as the model's `Attend`, with q, k and v after RoPE, PyTorch's
operations (or Triton's kernel) run, on any device. `fused` takes a layer's projections as they come
out of their matrix product, and the C++ core does all there is between that product and the next;
it is for a CPU. The results are the same, within rounding.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine import _C
from store_engine.kernels.beam_attention import beam_attention
from store_engine.model.attention import PackedSequences


class HeadNorms(NamedTuple):
    """What happens to q and k before they meet."""

    cosine: NDArray[np.float32]  # (num_tokens, head_dim / 2), of RoPE's angles
    sine: NDArray[np.float32]
    q_norm: NDArray[np.float32] | None  # (head_dim,) weights of RMSNorm
    k_norm: NDArray[np.float32] | None
    norm_eps: float


class PrefillAttention:
    """Causal attention of packed contexts, whose first tokens may be in the cache already.

    Args:
        layers: `KVCache.layers`.
        num_heads: Of the queries.
        sequences: The new tokens.
        num_known: (batch,) int64 on the CPU, tokens of each context that are in the cache.
        num_new: (batch,) int64 on the CPU, the others.
    """

    def __init__(
        self,
        layers: Tensor,
        num_heads: int,
        sequences: PackedSequences,
        num_known: Tensor,
        num_new: Tensor,
    ) -> None:
        self._layers, self._num_heads, self._sequences = layers, num_heads, sequences
        self._num_known, self._num_new = num_known, num_new

    def fused(self, layer_id: int, qkv: Tensor, norms: HeadNorms, out: Tensor) -> None:
        """Attends from the projections qkv (num_tokens, all heads * head_dim).

        Fills `out` (num_tokens, num_heads * head_dim); or (batch, ...), each context's last token.
        """
        self._core(layer_id, as_numpy(qkv), out=as_numpy(out), **norms._asdict())

    @functools.cached_property
    def _core(self) -> _C.CachedAttention:
        known = self._num_known.numpy()
        begins = np.concatenate([[0], self._num_new.numpy().cumsum()])
        return _core(self._layers, self._num_heads, begins, known, known)

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The model's `Attend`; q may hold each context's last token alone."""
        keys, values = self._layers[layer_id].flatten(1, 2)
        keys.index_copy_(0, self._slots, k)
        values.index_copy_(0, self._slots, v)
        if len(q) == len(self._num_new):
            return self._attend_last(layer_id, q)
        if not bool(self._num_known.any()):
            return self._sequences(layer_id, q, k, v)
        return self._attend_after(layer_id, q)

    @functools.cached_property
    def _request(self) -> Tensor:
        """(num_tokens,) of each token."""
        batch = torch.arange(len(self._num_new))
        return batch.repeat_interleave(self._num_new).to(self._sequences.device)

    @functools.cached_property
    def _slots(self) -> Tensor:
        """(num_tokens,) where each token stands in the flattened cache of a layer."""
        known = self._num_known.repeat_interleave(self._num_new).to(self._sequences.device)
        return self._request * self._layers.shape[3] + self._sequences.positions + known

    @functools.cached_property
    def _attend_last(self) -> Callable[[int, Tensor], Tensor]:
        lengths = (self._num_known + self._num_new).to(self._layers.device)
        slot = torch.arange(int(lengths.max()), device=lengths.device)
        return _attend_visible(self._layers, self._num_heads, (slot < lengths[:, None])[:, None])

    @functools.cached_property
    def _attend_after(self) -> Callable[[int, Tensor], Tensor]:
        """Causal attention that goes on after what is known; queries are padded."""
        batch, longest, device = len(self._num_new), self._sequences.max_length, self._layers.device
        place = self._request * longest + self._sequences.positions  # of each token once padded
        last = self._num_known[:, None].to(device) + torch.arange(longest, device=device)
        slot = torch.arange(int((self._num_known + self._num_new).max()), device=device)
        visible = slot <= last[:, :, None]
        attend_padded = _attend_visible(self._layers, self._num_heads, visible)

        def attend(layer_id: int, q: Tensor) -> Tensor:
            room = q.new_zeros(batch * longest, *q.shape[1:])
            return attend_padded(layer_id, room.index_copy_(0, place, q))[place]

        return attend


class TreeAttention:
    """Attention of a block of beams to their request's context and to their ancestors.

    Args:
        layers: `KVCache.layers`.
        num_heads: Of the queries.
        context_lengths: (batch,) int64 on the CPU.
        ancestors: (batch, width, depth) int64, see `KVCache.decode`.
        begin: The block's first slot in the tree.
        use_triton: Whether the kernel of kernels/beam_attention.py runs.
    """

    def __init__(
        self,
        layers: Tensor,
        num_heads: int,
        context_lengths: Tensor,
        ancestors: Tensor,
        begin: int,
        use_triton: bool,
    ) -> None:
        self._layers, self._num_heads, self._use_triton = layers, num_heads, use_triton
        self._lengths, self._ancestors = context_lengths, ancestors
        self._tree = int(context_lengths.max())  # the tree's first slot
        self._begin = self._tree + begin

    def fused(self, layer_id: int, qkv: Tensor, norms: HeadNorms, out: Tensor) -> None:
        """As `PrefillAttention.fused`, for all beams, request by request."""
        self._core(layer_id, as_numpy(qkv), out=as_numpy(out), **norms._asdict())

    @functools.cached_property
    def _core(self) -> _C.CachedAttention:
        batch, width, depth = self._ancestors.shape
        slots = (self._ancestors + self._tree).numpy().reshape(batch * width, depth)
        begins, first = width * np.arange(batch + 1), np.full(batch, self._begin)
        lengths = self._lengths.numpy()
        return _core(self._layers, self._num_heads, begins, first, lengths, slots)

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The model's `Attend`."""
        width = self._ancestors.shape[1]
        keys, values = self._layers[layer_id, :, :, self._begin : self._begin + width]
        keys.copy_(k.view_as(keys))
        values.copy_(v.view_as(values))
        return self._attend_triton(layer_id, q) if self._use_triton else self._attend(layer_id, q)

    @functools.cached_property
    def _tree_mask(self) -> Tensor:
        """(batch, width, slots of the tree until now) bool, those that each beam sees."""
        batch, width, _ = self._ancestors.shape
        num_slots = self._begin - self._tree + width
        mask = torch.zeros(batch, width, num_slots, dtype=torch.bool, device=self._layers.device)
        return mask.scatter_(2, self._ancestors, True)

    @functools.cached_property
    def _attend(self) -> Callable[[int, Tensor], Tensor]:
        tree_mask = self._tree_mask
        slot = torch.arange(self._tree, device=tree_mask.device)
        is_context = slot < self._lengths.to(tree_mask.device)[:, None]
        is_context = is_context[:, None].expand(-1, tree_mask.shape[1], -1)
        visible = torch.cat([is_context, tree_mask], dim=2)
        return _attend_visible(self._layers, self._num_heads, visible)

    def _attend_triton(self, layer_id: int, q: Tensor) -> Tensor:
        """The kernel reads each context's real slots, and the tree's mask."""
        batch, width, num_tree = self._tree_mask.shape
        keys, values = self._layers[layer_id, :, :, : self._tree + num_tree]
        q, lengths = q.view(batch, width, *q.shape[1:]), self._lengths.to(q.device)
        out = beam_attention(q, keys, values, lengths, self._tree_mask, backend="triton")
        return out.flatten(0, 1)


def _core(layers: Tensor, num_heads: int, *arrays: NDArray[np.int64]) -> _C.CachedAttention:
    """The C++ core's attention to the cache; `arrays` as its class takes them."""
    threads = torch.get_num_threads()
    contiguous = map(np.ascontiguousarray, arrays)
    return _C.CachedAttention(as_numpy(layers), num_heads, *contiguous, num_threads=threads)


def _attend_visible(
    layers: Tensor, num_heads: int, visible: Tensor
) -> Callable[[int, Tensor], Tensor]:
    """Attention from the same number of queries of each request to the slots that they see.

    Args:
        layers: `KVCache.layers`.
        num_heads: Of the queries.
        visible: (batch, width, num_used) bool.

    Returns:
        A function of the layer and q (batch * width, num_heads, head_dim).
    """
    batch, width, num_used = visible.shape
    kv_heads, head_dim = layers.shape[4:]
    group = num_heads // kv_heads
    mask = torch.zeros_like(visible, dtype=layers.dtype).masked_fill_(~visible, -torch.inf)
    # a group's query heads become further query rows, so that the key they share is read once
    # and never expanded
    mask = mask[:, None].repeat(1, 1, group, 1)

    def attend(layer_id: int, q: Tensor) -> Tensor:
        keys, values = layers[layer_id, :, :, :num_used].transpose(2, 3)
        q = q.view(batch, width, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
        q = q.reshape(batch, kv_heads, group * width, head_dim)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        out = out.view(batch, kv_heads, group, width, head_dim).permute(0, 3, 1, 2, 4)
        return out.reshape(batch * width, kv_heads * group, head_dim)

    return attend


def as_numpy(tensor: Tensor) -> np.ndarray:
    """A view for the C++ core, which takes bfloat16 as its bits; the tensor is on the CPU."""
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return (tensor.view(torch.uint16) if is_bfloat16 else tensor).numpy()
