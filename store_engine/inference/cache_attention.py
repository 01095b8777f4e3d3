"""Attention of new tokens to a KV cache, which they first join: of contexts, and of beam trees.

Both do it in two ways. Called as the model's `AttentionFn`, with q, k and v after RoPE, PyTorch's
operations (or Triton's kernel) run, on any device. `fused` takes a layer's projections as they come
out of their matrix product, and the C++ core does all there is between that product and the next;
it is for a CPU. The results are the same, within rounding.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine import _C
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.numpy_view import as_numpy
from store_engine.kernels.beam_attention import (
    attend_with_bias,
    beam_attention,
    visibility_bias,
    visible_slots,
)
from store_engine.model.attention import PackedSequences


class QKNormRope(NamedTuple):
    """What is done to q and k before they meet: RMSNorm of each head, where there is one; RoPE."""

    cosine: NDArray[np.float32]  # (num_tokens, head_dim / 2), of RoPE's angles
    sine: NDArray[np.float32]
    q_norm: NDArray[np.float32] | None  # (head_dim,) weights of RMSNorm
    k_norm: NDArray[np.float32] | None
    norm_eps: float


class PrefillAttention:
    """Causal attention of packed contexts, whose first tokens may be in the cache already.

    A prefill's output is the state at each context's last token. So the last layer gets the last
    queries alone, (batch, num_heads, head_dim); every other layer gets those of all tokens.

    Args:
        cache: Started for these contexts.
        sequences: Each context without its first `num_known` tokens; at least one is left.
        num_known: (batch,) int64 on the CPU, tokens whose keys and values are in the cache.
    """

    def __init__(self, cache: KVCache, sequences: PackedSequences, num_known: Tensor) -> None:
        self._cache, self._sequences, self._num_known = cache, sequences, num_known
        self._num_new = cache.context_lengths - num_known
        self._goes_on = bool(num_known.any())
        self._last_layer = cache.config.num_layers - 1

    def fused(self, layer_id: int, qkv: Tensor, norm_rope: QKNormRope, out: Tensor) -> None:
        """Attends from the projections qkv (num_tokens, all heads * head_dim).

        Fills `out` (num_tokens, num_heads * head_dim), in the last layer (batch, ...).
        """
        is_last = layer_id == self._last_layer
        arrays = norm_rope._asdict()
        self._core(layer_id, as_numpy(qkv), out=as_numpy(out), last_only=is_last, **arrays)

    @functools.cached_property
    def _core(self) -> _C.CachedAttention:
        known = self._num_known.numpy()
        begins = np.concatenate([[0], self._num_new.numpy().cumsum()])
        return _core(self._cache, begins, known, known)

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends as the model's `AttentionFn`."""
        keys, values = self._cache.layers[layer_id].flatten(1, 2)
        keys.index_copy_(0, self._slots, k)
        values.index_copy_(0, self._slots, v)
        if layer_id == self._last_layer:
            return self._attend(layer_id, q[:, None], self._last_bias)[:, 0]
        if self._goes_on:
            return self._attend_after(layer_id, q)
        return self._sequences(layer_id, q, k, v)

    def _attend_after(self, layer_id: int, q: Tensor) -> Tensor:
        """Goes on after what is known; queries are padded to those of the longest context."""
        batch, longest = len(self._num_new), self._sequences.max_length
        padded = q.new_zeros(batch * longest, *q.shape[1:])
        padded = padded.index_copy_(0, self._padded_rows, q).unflatten(0, (batch, longest))
        return self._attend(layer_id, padded, self._bias_after).flatten(0, 1)[self._padded_rows]

    def _attend(self, layer_id: int, q: Tensor, bias: Tensor) -> Tensor:
        keys, values = self._cache.layers[layer_id, :, :, : bias.shape[3]]
        return attend_with_bias(q, keys, values, bias)

    @functools.cached_property
    def _requests(self) -> Tensor:
        """(num_tokens,) int64, the request of each token."""
        batch = torch.arange(len(self._num_new))
        return batch.repeat_interleave(self._num_new).to(self._sequences.device)

    @functools.cached_property
    def _slots(self) -> Tensor:
        """(num_tokens,) int64, where each token stands in the flattened cache of a layer."""
        known = self._num_known.repeat_interleave(self._num_new).to(self._sequences.device)
        return self._requests * self._cache.layers.shape[3] + self._sequences.positions + known

    @functools.cached_property
    def _padded_rows(self) -> Tensor:
        """(num_tokens,) int64, the row of each token once queries are padded."""
        return self._requests * self._sequences.max_length + self._sequences.positions

    @functools.cached_property
    def _last_bias(self) -> Tensor:
        lengths = self._cache.device_lengths
        slot = torch.arange(self._cache.first_tree_slot, device=lengths.device)
        return _bias(self._cache, (slot < lengths[:, None])[:, None])

    @functools.cached_property
    def _bias_after(self) -> Tensor:
        device = self._cache.layers.device
        query = torch.arange(self._sequences.max_length, device=device)
        last = self._num_known.to(device)[:, None] + query
        slot = torch.arange(self._cache.first_tree_slot, device=device)
        return _bias(self._cache, slot <= last[:, :, None])


class TreeAttention:
    """Attention of a block of beams to their request's context and to their ancestors.

    Args:
        cache: Filled by prefill and by the blocks of the levels before.
        ancestors: (batch, width, depth) int64, the tree's slots that each beam sees, counted from
            the tree's first; its own among them.
        begin: The block's first slot in the tree.
    """

    def __init__(self, cache: KVCache, ancestors: Tensor, begin: int) -> None:
        self._cache, self._ancestors = cache, ancestors
        self._begin = cache.first_tree_slot + begin
        self._end = self._begin + ancestors.shape[1]

    def fused(self, layer_id: int, qkv: Tensor, norm_rope: QKNormRope, out: Tensor) -> None:
        """Attends as `PrefillAttention.fused`, for all beams, request by request."""
        self._core(layer_id, as_numpy(qkv), out=as_numpy(out), **norm_rope._asdict())

    @functools.cached_property
    def _core(self) -> _C.CachedAttention:
        batch, width, depth = self._ancestors.shape
        slots = (self._ancestors + self._cache.first_tree_slot).numpy()
        begins, first = width * np.arange(batch + 1), np.full(batch, self._begin)
        lengths = self._cache.context_lengths.numpy()
        return _core(self._cache, begins, first, lengths, slots.reshape(batch * width, depth))

    def __call__(self, layer_id: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends as the model's `AttentionFn`."""
        keys, values = self._cache.layers[layer_id, :, :, self._begin : self._end]
        keys.copy_(k.view_as(keys))
        values.copy_(v.view_as(values))
        q = q.unflatten(0, self._ancestors.shape[:2])
        return self._attend(q, *self._cache.layers[layer_id, :, :, : self._end]).flatten(0, 1)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend_with_bias(q, keys, values, self._bias)

    @functools.cached_property
    def _tree_mask(self) -> Tensor:
        """(batch, width, slots of the tree until now) bool, those that each beam sees."""
        batch, width, _ = self._ancestors.shape
        num_tree = self._end - self._cache.first_tree_slot
        mask = self._ancestors.new_zeros(batch, width, num_tree, dtype=torch.bool)
        return mask.scatter_(2, self._ancestors, True)

    @functools.cached_property
    def _bias(self) -> Tensor:
        lengths = self._cache.device_lengths
        return _bias(self._cache, visible_slots(self._end, lengths, self._tree_mask))


class TritonTreeAttention(TreeAttention):
    """The same by the kernel of kernels/beam_attention.py, which reads real slots alone."""

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        lengths, mask = self._cache.device_lengths, self._tree_mask
        return beam_attention(q, keys, values, lengths, mask, backend="triton")


def _core(cache: KVCache, *arrays: NDArray[np.int64]) -> _C.CachedAttention:
    """The C++ core's attention to the cache; `arrays` as its class takes them."""
    threads, layers = torch.get_num_threads(), as_numpy(cache.layers)
    contiguous = map(np.ascontiguousarray, arrays)
    return _C.CachedAttention(layers, cache.config.num_heads, *contiguous, num_threads=threads)


def _bias(cache: KVCache, is_visible: Tensor) -> Tensor:
    group = cache.config.num_heads // cache.config.num_kv_heads
    return visibility_bias(is_visible, group, cache.layers.dtype)
