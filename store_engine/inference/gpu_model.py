"""The model for decoding on a GPU: the arithmetic of the trained one, in few launches.

The twin of `cpu_model`: the same forward pass, of static shapes and without a wait, so that a CUDA
graph can hold it. A layer is nine ops: the residual's sum with RMSNorm, twice; four matrix
products; one op from a product to q and the cache; attention; SwiGLU. The weights are the model's
own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.item_slots import ItemSlots
from store_engine.config import ModelConfig
from store_engine.inference.decoding_model import DecodingModel
from store_engine.kernels._dispatch import Backend
from store_engine.kernels.add_rms_norm import add_rms_norm
from store_engine.kernels.qk_rope_cache import qk_rope_cache
from store_engine.kernels.swiglu import swiglu
from store_engine.kernels.tree_attention import BeamTree, tree_attention
from store_engine.model.layer_ops import RMSNorm
from store_engine.model.transformer import Block, Transformer, rope_frequencies

# attend(q, keys, values): q (num_tokens, num_heads, head_dim); the cache of one layer, (batch,
# num_slots, num_kv_heads, head_dim) each -> like q
CacheAttention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GpuModel:
    """A model as a CUDA graph runs it. Make it with `of`.

    Args:
        decoder: Embeddings and heads, and the items of the catalogue that is searched.
        transformer: The layers.
        bos: Token that each history begins with.
        history_rows: (num_codes + 1, hidden_size), the embeddings of all codes, then that of
            `bos`: what histories of codes are made of.
    """

    decoder: DecodingModel
    transformer: "GpuTransformer"
    bos: int
    history_rows: Tensor

    @classmethod
    def of(cls, decoder: DecodingModel, bos: int, kernels: Backend) -> "GpuModel":
        """Shares a model's weights.

        Args:
            decoder: The model, on any device.
            bos: Token that each history begins with.
            kernels: The implementation of the ops; see `_dispatch.choose_backend`.
        """
        source = decoder.source
        first = source.text_embedding.weight[bos : bos + 1]
        rows = torch.cat([source.code_embedding.weight, first])
        return cls(decoder, GpuTransformer(source.transformer, kernels), bos, rows)

    def with_slots(self, item_slots: ItemSlots | None) -> "GpuModel":
        """Returns the same model for the items of another catalogue."""
        decoder = self.decoder.with_slots(item_slots)
        return self if decoder is self.decoder else replace(self, decoder=decoder)

    @property
    def reads_items(self) -> bool:
        """A history has tokens that are items, not codes alone."""
        return self.decoder.item_slots is not None and self.decoder.item_slots.read is not None

    def input_ids(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turns a history's unified ids, any shape, into what `embed` takes."""
        if self.reads_items:
            return tokens
        codes = tokens - self.decoder.vocabulary.text_size
        return np.where(codes < 0, len(self.history_rows) - 1, codes)

    def embed(self, input_ids: Tensor) -> "Embedded":
        """Embeds (num_tokens,) int32 of `input_ids`."""
        if self.reads_items:
            return Embedded(self.decoder.embed(input_ids.long()))
        return Embedded(self.history_rows, input_ids)

    def embed_codes(self, codes: Tensor, level: int) -> "Embedded":
        """Embeds codes of one level, (num_codes,) int32; -1 stands for none, and gets any row."""
        source = self.decoder.source
        begin, size = source.vocabulary.code_offsets[level], source.codebook_sizes[level]
        return Embedded(source.code_embedding.weight[begin : begin + size], codes)


class Embedded(NamedTuple):
    """The embeddings of some tokens, looked up by the op that reads them."""

    table: Tensor  # (num_rows, hidden_size)
    rows: Tensor | None = None  # (num_tokens,) int32, each token's; None: as they come


class Tokens(NamedTuple):
    """Where the tokens of one pass stand.

    Attributes:
        cosine: (num_positions, head_dim / 2) float32, of RoPE's angles.
        sine: Likewise.
        positions: (num_tokens,) int32.
        slots: (num_tokens,) int32 in the flattened cache of a layer.
    """

    cosine: Tensor
    sine: Tensor
    positions: Tensor
    slots: Tensor


class GpuTransformer:
    """All layers and the final norm, for inference alone.

    Args:
        transformer: Its weights are used as they are.
        kernels: The implementation of the ops; see `_dispatch.choose_backend`.
    """

    def __init__(self, transformer: Transformer, kernels: Backend) -> None:
        self.config = transformer.config
        self.kernels = kernels
        self._layers = [_Layer(block, kernels) for block in transformer.blocks]
        self._norm = transformer.norm

    def __call__(
        self,
        embedded: Embedded,
        tokens: Tokens,
        cache: Tensor,
        attend: CacheAttention,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """Runs the layers.

        Args:
            embedded: The tokens.
            tokens: Where they stand.
            cache: (num_layers, 2, batch, num_slots, num_kv_heads, head_dim); their keys and values
                join it.
            attend: How queries meet the cache, which holds the tokens already.
            output_rows: (num_outputs,) int32, tokens whose result is returned; None: all. The last
                layer's MLP runs for these alone.

        Returns:
            (num_tokens, hidden_size), after the final norm; or (num_outputs, hidden_size).
        """
        x, rows = embedded
        stream: Tensor | None = None
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            normed, stream = layer.attention_norm(x, stream, rows)
            rows = output_rows if layer is self._layers[-1] else None
            x = layer.attention(normed, tokens, keys, values, attend)
            normed, stream = layer.mlp_norm(x, stream, rows)
            x, rows = layer.mlp(normed), None
        normed, _ = add_rms_norm(x, stream, self._norm.weight, self._norm.eps, backend=self.kernels)
        return normed


class _Layer:
    """One `Block`."""

    def __init__(self, block: torch.nn.Module, kernels: Backend) -> None:
        assert isinstance(block, Block)
        attention = block.attention
        self._block, self._kernels, self._num_heads = block, kernels, attention.heads[0]
        self._q_weight, self._k_weight = (
            norm.weight if isinstance(norm, RMSNorm) else None
            for norm in (attention.q_norm, attention.k_norm)
        )

    def attention_norm(
        self, x: Tensor, stream: Tensor | None, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Adds to the residual stream, of some rows: normalised for attention, and as it is."""
        norm = self._block.attention_norm
        return add_rms_norm(x, stream, norm.weight, norm.eps, rows, backend=self._kernels)

    def attention(
        self, normed: Tensor, tokens: Tokens, keys: Tensor, values: Tensor, attend: CacheAttention
    ) -> Tensor:
        """Returns what attention adds to the stream."""
        attention = self._block.attention
        q = qk_rope_cache(
            attention.qkv_proj(normed),
            self._q_weight,
            self._k_weight,
            *tokens,
            keys.flatten(0, 1),
            values.flatten(0, 1),
            self._block.attention_norm.eps,
            self._num_heads,
            backend=self._kernels,
        )
        attended: Tensor = attention.o_proj(attend(q, keys, values).flatten(1))
        return attended

    def mlp_norm(self, x: Tensor, stream: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Likewise for the MLP."""
        norm = self._block.mlp_norm
        return add_rms_norm(x, stream, norm.weight, norm.eps, rows, backend=self._kernels)

    def mlp(self, normed: Tensor) -> Tensor:
        """Returns what the MLP adds to the stream."""
        mlp = self._block.mlp
        added: Tensor = mlp.down_proj(swiglu(mlp.gate_up_proj(normed), backend=self._kernels))
        return added


class PrefillAttention:
    """Causal attention of contexts that begin at slot 0, each padded at its end.

    Args:
        context: Slots of each context, the padding included.
    """

    def __init__(self, context: int) -> None:
        self._context = context

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attends as `CacheAttention`; what stands behind a context's end is not seen before it."""
        q = q.unflatten(0, (len(keys), self._context)).transpose(1, 2)
        keys, values = (x[:, : self._context].transpose(1, 2) for x in (keys, values))
        is_grouped = q.shape[1] != keys.shape[1]
        out = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=is_grouped)
        return out.transpose(1, 2).flatten(0, 1)


class BeamAttention:
    """Attention of a block of beams to their contexts and ancestors.

    Args:
        lengths: (batch,) int32, the real slots of each context.
        tree: Where the beams stand.
        width: Beams of the block.
        counters: See `tree_attention`.
        kernels: The implementation of `tree_attention`.
    """

    def __init__(
        self, lengths: Tensor, tree: BeamTree, width: int, counters: Tensor, kernels: Backend
    ) -> None:
        self._lengths, self._tree, self._width = lengths, tree, width
        self._counters, self._kernels = counters, kernels

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attends as `CacheAttention`."""
        q = q.unflatten(0, (len(keys), self._width))
        out = tree_attention(
            q,
            keys,
            values,
            self._lengths,
            self._tree,
            counters=self._counters,
            backend=self._kernels,
        )
        return out.flatten(0, 1)


def rope_table(
    config: ModelConfig, num_positions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Computes the cosines and sines of positions from 0: (num_positions, head_dim / 2) float32."""
    angles = torch.arange(num_positions)[:, None] * rope_frequencies(config)
    return angles.cos().to(device), angles.sin().to(device)
