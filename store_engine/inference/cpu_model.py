"""The model for decoding on a CPU: the arithmetic of the trained one, in few passes over memory.

Linear layers keep their weights laid out once as oneDNN's matrix kernels read them (a plain weight
is reordered in every call), with SwiGLU's silu and product and the residual's sum as epilogues of
those products. All else of a layer is the C++ core's: RMSNorm, and from q, k and v to attention's
result in one call (`cache_attention`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from store_engine import _C
from store_engine.config import ModelConfig
from store_engine.inference.cache_attention import PrefillAttention, QKNormRope, TreeAttention
from store_engine.inference.numpy_view import as_numpy
from store_engine.model.dtype import computes_in_bfloat16
from store_engine.model.layer_ops import RMSNorm
from store_engine.model.transformer import Block, Transformer, rope_frequencies

# entries of a block that one thread normalises before a second is worth its wake-up
_ENTRIES_PER_THREAD = 1 << 14


class CpuTransformer(nn.Module):
    """All layers and the final norm, for inference alone.

    Args:
        transformer: Its weights are copied.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.config = transformer.config
        self._layers = [_Layer.of(block) for block in transformer.blocks]
        self._norm = _Norm(transformer.norm)
        self._rope = _RopeTable(self.config)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        attend: PrefillAttention | TreeAttention,
        output_indices: Tensor | None = None,
    ) -> Tensor:
        """Runs the layers as `Transformer.forward` does.

        `output_indices` are the last tokens of each context, with a `PrefillAttention`, or None.
        """
        config = self.config
        cosine, sine = self._rope.rows(positions)
        normed = torch.empty_like(x)
        attended = x.new_empty(len(x), config.num_heads * config.head_dim)
        for layer_id, layer in enumerate(self._layers):
            qkv = layer.qkv_proj(layer.attention_norm(x, normed))
            if output_indices is not None and layer_id + 1 == config.num_layers:
                x, num = x[output_indices], len(output_indices)
                normed, attended = normed[:num], attended[:num]
            norm_rope = QKNormRope(cosine, sine, layer.q_norm, layer.k_norm, config.norm_eps)
            attend.fused(layer_id, qkv, norm_rope, attended)
            x = layer.o_proj.plus(attended, x)
            gate = layer.gate_proj(layer.mlp_norm(x, normed), "swish")
            x = layer.down_proj.plus(layer.up_proj.times(normed, gate), x)
        return self._norm(x, normed)


class PackedLinear:
    """A linear layer with the epilogues that oneDNN can add to it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = None if bias is None else bias.detach()
        self._weight = weight.detach().contiguous()
        self._is_packed = _can_pack(weight.dtype)
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)

    def __call__(self, x: Tensor, activation: Literal["none", "swish"] = "none") -> Tensor:
        """Maps x (num_tokens, in_features) to (num_tokens, out_features)."""
        if not self._is_packed:
            y = F.linear(x, self._weight, self._bias)
            return F.silu(y) if activation == "swish" else y
        packed: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            x, self._weight, self._bias, activation, [], ""
        )
        return packed

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Maps x and multiplies by `factor` (num_tokens, out_features)."""
        return self._binary(x, factor, "mul") if self._is_packed else self(x) * factor

    def plus(self, x: Tensor, summand: Tensor) -> Tensor:
        """Maps x and adds `summand` (num_tokens, out_features)."""
        return self._binary(x, summand, "add") if self._is_packed else self(x) + summand

    def _binary(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self._weight, self._bias, operation
        )
        return y


def _can_pack(dtype: torch.dtype) -> bool:
    """Says whether oneDNN has kernels for packed weights: on x86, in a dtype it supports."""
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not (is_x86 and torch.backends.mkldnn.is_available()):
        return False
    return dtype == torch.float32 or computes_in_bfloat16()


class _Norm:
    """RMSNorm by the C++ core."""

    def __init__(self, norm: RMSNorm) -> None:
        self._weight, self._eps = _float_array(norm.weight), norm.eps

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Writes x (num_tokens, hidden_size), normalised, into `out`; returns it."""
        threads = max(1, min(torch.get_num_threads(), x.numel() // _ENTRIES_PER_THREAD))
        _C.rms_norm(as_numpy(x), self._weight, as_numpy(out), self._eps, num_threads=threads)
        return out


@dataclass(frozen=True)
class _Layer:
    """The parts of one `Block`."""

    attention_norm: _Norm
    qkv_proj: PackedLinear
    q_norm: NDArray[np.float32] | None
    k_norm: NDArray[np.float32] | None
    o_proj: PackedLinear
    mlp_norm: _Norm
    gate_proj: PackedLinear
    up_proj: PackedLinear
    down_proj: PackedLinear

    @classmethod
    def of(cls, block: nn.Module) -> "_Layer":
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        q_norm, k_norm = (
            _float_array(norm.weight) if isinstance(norm, RMSNorm) else None
            for norm in (attention.q_norm, attention.k_norm)
        )
        return cls(
            attention_norm=_Norm(block.attention_norm),
            qkv_proj=PackedLinear(attention.qkv_proj.weight, attention.qkv_proj.bias),
            q_norm=q_norm,
            k_norm=k_norm,
            o_proj=PackedLinear(attention.o_proj.weight, attention.o_proj.bias),
            mlp_norm=_Norm(block.mlp_norm),
            gate_proj=PackedLinear(gate),
            up_proj=PackedLinear(up),
            down_proj=PackedLinear(mlp.down_proj.weight),
        )


class _RopeTable:
    """Cosines and sines of every position so far; grows by doubling."""

    def __init__(self, config: ModelConfig) -> None:
        self._frequencies = rope_frequencies(config)
        self._table = self._make(256)

    def rows(self, positions: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Looks up positions (num_tokens,) int64: cosines and sines (num_tokens, head_dim / 2)."""
        table, longest = self._table, int(positions.max()) + 1
        if longest > len(table[0]):
            self._table = table = self._make(2 * longest)
        cosine, sine = (x[positions].numpy() for x in table)
        return cosine, sine

    def _make(self, num_positions: int) -> tuple[Tensor, Tensor]:
        angles = torch.arange(num_positions)[:, None] * self._frequencies
        return angles.cos(), angles.sin()


def _float_array(weight: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weight.detach().float().numpy()
    return array
