"""A GGUF model under Hugging Face's names: llama.cpp's renaming and permuting undone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from store_engine.config import ModelConfig
from store_engine.errors import InputError
from store_engine.model.transformer import rope_frequencies
from store_engine.model.weights import check_weight
from store_engine.text.gguf_file import GGUFFile

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_ROPE_FREQS = "rope_freqs.weight"
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFBackbone:
    """A Llama, Qwen2 or Qwen3 in a GGUF file.

    Attributes:
        sizes: Values for `ModelConfig`.
        shapes: Every tensor's shape, by Hugging Face's name.

    Raises:
        InputError: The file cannot be read, or the model is of a kind that ours is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GGUFFile(path)
        self._names = {_hf_name(name): name for name in self._file.shapes if name != _ROPE_FREQS}
        self.shapes = {theirs: self._file.shapes[name] for theirs, name in self._names.items()}
        self.sizes = self._sizes()

    def read(self, name: str) -> Tensor:
        """Returns a tensor in float32, by Hugging Face's name.

        Raises:
            InputError: It cannot be dequantised, or holds NaN or infinity.
        """
        tensor = check_weight(self._file.read(self._names[name]), name, self.path)
        is_rotated = name.rpartition(".")[0].endswith(("q_proj", "k_proj"))
        if not is_rotated or self._file.get("general.architecture") != "llama":
            return tensor
        # llama.cpp rotates neighbours (2i, 2i + 1) of a llama, ours and Hugging Face's rotate
        # (i, i + head_dim / 2): its converter permuted the rows of q and k
        half = self.sizes["head_dim"] // 2
        return tensor.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)

    def _sizes(self) -> dict[str, Any]:
        family = self._file.get("general.architecture")
        if family not in _ARCHITECTURES:
            raise InputError(
                f"{self.path}: architecture must be one of {', '.join(_ARCHITECTURES)}, "
                f"got {str(family)[:100]}"
            )

        def get(key: str, *default: Any) -> Any:
            return self._file.get(f"{family}.{key}", *default)

        def count(key: str, *default: int) -> int:
            value = get(key, *default)
            if type(value) is not int or value <= 0:
                raise InputError(
                    f"{self.path}: {family}.{key} must be a positive integer, "
                    f"got {repr(value)[:50]}"
                )
            return value

        def number(key: str, *default: float) -> float:
            value = get(key, *default)
            if type(value) not in (int, float) or not 0 < value < 1e15:
                raise InputError(
                    f"{self.path}: {family}.{key} must be a positive number, got {repr(value)[:50]}"
                )
            return float(value)

        if get("expert_count", 0):
            raise InputError(f"{self.path}: a mixture of experts is not supported")
        hidden_size, num_heads = count("embedding_length"), count("attention.head_count")
        head_dim = count("attention.key_length", hidden_size // num_heads)
        if count("rope.dimension_count", head_dim) != head_dim:
            raise InputError(f"{self.path}: RoPE over a part of a head is not supported")
        sizes = {
            "hidden_size": hidden_size,
            "num_layers": count("block_count"),
            "num_heads": num_heads,
            "num_kv_heads": count("attention.head_count_kv", num_heads),
            "head_dim": head_dim,
            "intermediate_size": count("feed_forward_length"),
            # stored in float32: its shortest decimal is what the model's config.json said
            "norm_eps": float(str(np.float32(number("attention.layer_norm_rms_epsilon")))),
            "attention_bias": self._attention_bias(),
            "qk_norm": "model.layers.0.self_attn.q_norm.weight" in self.shapes,
            "tie_text_head": "lm_head.weight" not in self.shapes,
            "rope_theta": number("rope.freq_base", 10000.0),
            "rope_scaling": "none",
        }
        kind = get("rope.scaling.type", "none")
        if kind != "none":
            raise InputError(f"{self.path}: RoPE scaling {str(kind)[:100]!r} is not supported")
        return sizes | self._llama3_scaling(sizes) if _ROPE_FREQS in self._file.shapes else sizes

    def _attention_bias(self) -> str:
        has_bias = [f"model.layers.0.self_attn.{p}_proj.bias" in self.shapes for p in "qo"]
        return {(False, False): "none", (True, False): "qkv", (True, True): "all"}.get(
            (has_bias[0], has_bias[1]), "none"
        )

    def _llama3_scaling(self, sizes: dict[str, Any]) -> dict[str, Any]:
        """A GGUF keeps the factors of Llama 3's frequencies, not what they were made from."""
        factors = check_weight(self._file.read(_ROPE_FREQS), _ROPE_FREQS, self.path)
        scaling = {"rope_scaling": "llama3", "rope_factor": float(factors.max())}
        try:
            plain, ours = ModelConfig(**sizes), ModelConfig(**(sizes | scaling))
        except InputError as error:  # a number outside of its range
            raise InputError(f"{self.path}: {error}") from error
        wanted = rope_frequencies(plain) / rope_frequencies(ours)
        if wanted.shape != factors.shape or not torch.allclose(wanted, factors, rtol=1e-4):
            raise InputError(f"{self.path}: {_ROPE_FREQS} does not hold the factors of Llama 3")
        return scaling


def _hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; unknown ones as they are."""
    match = re.fullmatch(r"(blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[3] not in _NAMES:
        return name
    layer = f"model.layers.{match[2]}." if match[1] else ""
    return f"{layer}{_NAMES[match[3]]}.{match[4]}"
