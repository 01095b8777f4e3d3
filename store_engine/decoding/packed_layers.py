"""Linear layers for decoding on a CPU: weights laid out once, as its matrix kernels read them.

oneDNN reorders a plain weight in every call, which costs much where there are few rows, as in a
block of beams. SwiGLU's silu and product become epilogues of their matrix products, so the wide
activations are written once. The arithmetic is that of the model's own layers.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from store_engine.model.store_model import StoreModel
from store_engine.model.transformer import MLP, Attention, Block, Linear


def pack_layers(model: StoreModel) -> StoreModel:
    """Makes a copy of a model with packed linear layers; all other weights are shared.

    Args:
        model: On any device. The copy does not follow later changes of its linear layers.

    Returns:
        The copy; or the model itself where there is nothing to gain: not on an x86 CPU, or in a
        dtype that the CPU does not compute in.
    """
    weight = model.code_head.weight
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if weight.device.type != "cpu" or not (is_x86 and torch.backends.mkldnn.is_available()):
        return model
    if weight.dtype == torch.bfloat16 and not computes_in_bfloat16():
        return model
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return model
    memo = {id(x): x for x in (*model.parameters(), *model.buffers())}
    packed = copy.deepcopy(model, memo)
    for module in list(packed.transformer.modules()):
        if isinstance(module, Block):
            module.add_module("mlp", _PackedMLP(module.mlp))
        elif isinstance(module, Attention):
            for name in ("qkv_proj", "o_proj"):
                linear = module.get_submodule(name)
                assert isinstance(linear, Linear)
                module.add_module(name, _PackedLinear(linear.weight, linear.bias))
    return packed


def choose_dtype(dtype: Literal["auto", "float32", "bfloat16"], device: str) -> torch.dtype:
    """Resolves "auto": bfloat16 on a GPU, and on a CPU that computes in it; else float32."""
    if dtype == "auto":
        is_fast = not device.startswith("cpu") or computes_in_bfloat16()
        dtype = "bfloat16" if is_fast else "float32"
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def computes_in_bfloat16() -> bool:
    """True if this CPU has instructions for bfloat16 products."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _PackedLinear(nn.Module):
    """A linear layer, for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """x (num_tokens, in_features) -> (num_tokens, out_features)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, activation, [], ""
        )
        return y

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The same, times `factor` (num_tokens, out_features)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, factor, self._weight, self._bias, "mul"
        )
        return y


class _PackedMLP(nn.Module):
    """SwiGLU in three calls."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        self._gate, self._up = _PackedLinear(gate), _PackedLinear(up)
        self._down = _PackedLinear(mlp.down_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (num_tokens, hidden_size) -> (num_tokens, hidden_size)."""
        gate = self._gate(x, "swish")
        return self._down(self._up.times(x, gate))
