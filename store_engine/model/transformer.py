"""The LLM's body: a Llama-family decoder (RMSNorm, RoPE, SwiGLU, grouped-query attention).

Qwen2's bias on q, k and v, Qwen3's norm on q and k and Llama 3.1's RoPE are switches of the config.

How attention is done is an argument: training attends within packed sequences, prefill also keeps
the keys and values, decoding attends from beams to a cache. Every other line is shared.
Source: Touvron et al. 2023, https://arxiv.org/abs/2302.13971; layout as in Hugging Face's Llama.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from store_engine.config import ModelConfig
from store_engine.model.attention import AttentionFn
from store_engine.model.layer_ops import RMSNorm, rotate, swiglu

INIT_STD = 0.02


def dropout_rate(config: ModelConfig, place: str) -> float:
    """Returns the rate of dropout in one of `config.dropout_places`, 0 elsewhere."""
    return config.dropout if place in config.dropout_places else 0.0


class Linear(nn.Linear):
    """A linear layer, initialised N(0, std) before ZeRO-3 may partition it; a bias begins at 0."""

    def __init__(
        self, in_features: int, out_features: int, std: float = INIT_STD, bias: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.normal_(self.weight, std=std)
        if bias:
            nn.init.zeros_(self.bias)


class Rope:
    """Rotary position embedding of one batch: cosines and sines, computed once for all layers.

    Args:
        positions: (num_tokens,) int64.
        config: Head size and frequencies.
        dtype: Dtype of q and k.
    """

    def __init__(self, positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> None:
        frequencies = rope_frequencies(config, positions.device)
        angles = positions[:, None].float() * frequencies  # (num_tokens, head_dim / 2)
        self.cos, self.sin = (x[:, None].to(dtype) for x in (angles.cos(), angles.sin()))

    def __call__(self, x: Tensor) -> Tensor:
        """Rotates x (num_tokens, heads, head_dim); the pairs are (i, i + head_dim / 2)."""
        return rotate(x, self.cos, self.sin)


def rope_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Radians per position of every pair: (head_dim / 2,) float32.

    `llama3` scaling divides the frequencies of waves longer than rope_original_tokens /
    rope_low_frequency by rope_factor, leaves the short waves, and goes over smoothly.
    Source: the Llama 3.1 release, as in Hugging Face's modeling_rope_utils.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=device) / config.head_dim
    frequencies = config.rope_theta**-exponents
    if config.rope_scaling == "none":
        return frequencies
    waves = config.rope_original_tokens * frequencies / (2 * math.pi)
    low, high = config.rope_low_frequency, config.rope_high_frequency
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / config.rope_factor)


class Attention(nn.Module):
    """Grouped-query self-attention; q, k and v come out of one matrix product."""

    def __init__(self, config: ModelConfig, layer_id: int) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.head_dim = config.head_dim
        self.heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        bias = config.attention_bias
        rows = sum(self.heads) * config.head_dim
        self.qkv_proj = Linear(config.hidden_size, rows, bias=bias != "none")
        std = INIT_STD / (2 * config.num_layers) ** 0.5  # keeps the residual stream's scale
        columns = config.num_heads * config.head_dim
        self.o_proj = Linear(columns, config.hidden_size, std, bias=bias == "all")
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(
        self, x: Tensor, rope: Rope, attend: AttentionFn, output_indices: Tensor | None = None
    ) -> Tensor:
        """Maps x (num_tokens, hidden_size) to the same, or (num_outputs, hidden_size)."""
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split(self.heads, dim=1)
        q, k = rope(self.q_norm(q)), rope(self.k_norm(k))
        if output_indices is not None:
            q = q[output_indices]
        return self.o_proj(attend(self.layer_id, q, k, v).flatten(1))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); gate and up come out of one matrix product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size)
        std = INIT_STD / (2 * config.num_layers) ** 0.5
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, std)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (num_tokens, hidden_size) to the same shape."""
        return self.down_proj(swiglu(self.gate_up_proj(x)))


class Block(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig, layer_id: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config, layer_id)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.attention_dropout, self.mlp_dropout = (
            nn.Dropout(dropout_rate(config, place)) for place in ("attention", "mlp")
        )

    def forward(
        self, x: Tensor, rope: Rope, attend: AttentionFn, output_indices: Tensor | None = None
    ) -> Tensor:
        """Maps x (num_tokens, hidden_size) to the same, or (num_outputs, hidden_size)."""
        attended = self.attention_dropout(
            self.attention(self.attention_norm(x), rope, attend, output_indices)
        )
        x = attended + (x if output_indices is None else x[output_indices])
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))


class CheckpointedBlock(Block):
    """A layer that keeps its inputs alone; the backward pass computes what is inside again."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes and returns what `Block` does."""
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        # reentrant, because ZeRO-3 may let go of a weight only between recomputing and using it
        forward = functools.partial(super().forward, **kwargs)
        output: Tensor = checkpoint(forward, *args, use_reentrant=True)
        return output


def compile_layers(module: nn.Module) -> None:
    """Has torch.compile fuse each layer by itself: one graph, which all layers share."""
    for block in module.modules():
        if isinstance(block, Block):
            block.compile()


class Transformer(nn.Module):
    """All layers and the final norm."""

    def __init__(self, config: ModelConfig, block: type[Block] = Block) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(block(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        attend: AttentionFn,
        output_indices: Tensor | None = None,
    ) -> Tensor:
        """Runs the layers.

        Args:
            x: (num_tokens, hidden_size) input embeddings, packed.
            positions: (num_tokens,) int64, restarting with each sequence.
            attend: How queries meet keys; called once per layer.
            output_indices: (num_outputs,) int64 tokens whose result is returned; None: all. The
                last layer makes keys and values of every token, and all else of these alone: its
                `attend` gets their queries only.

        Returns:
            (num_tokens, hidden_size), after the final norm; or (num_outputs, hidden_size).
        """
        rope = Rope(positions, self.config, x.dtype)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, rope, attend)
        return self.norm(last(x, rope, attend, output_indices))
