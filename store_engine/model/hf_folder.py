"""A Hugging Face checkpoint folder: config.json and safetensors, in one file or in shards.

Tensors are read one at a time from mapped files. A pickle (pytorch_model.bin) is never opened.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from store_engine.errors import InputError
from store_engine.files.json_file import read_json

_FAMILIES = ("llama", "qwen2", "qwen3")
_INDEX = "model.safetensors.index.json"


class HFFolder:
    """A checkpoint of a Llama (SmolLM and SmolLM2 are Llamas), Qwen2 or Qwen3.

    Attributes:
        sizes: Values for `ModelConfig`.
        shapes: Every tensor's shape, by its name.

    Raises:
        InputError: A file is missing or damaged, or the model is of a kind that ours is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = _sizes(path / "config.json")
        files = [_open(path / name) for name in _weight_files(path)]
        self._file_of = {name: file for file in files for name in list(file.keys())}
        self.shapes = {
            name: tuple(file.get_slice(name).get_shape()) for name, file in self._file_of.items()
        }

    def read(self, name: str) -> Tensor:
        """A tensor, in the dtype it is stored in."""
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor


def _weight_files(path: Path) -> list[str]:
    if (path / _INDEX).is_file():
        files = read_json(path / _INDEX).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise InputError(f"{path / _INDEX}: lacks weight_map")
        names = sorted({str(name) for name in files.values()})
        for name in names:
            # an index from elsewhere must not make us read outside its folder
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise InputError(f"{path / _INDEX}: '{name}' is not a safetensors file beside it")
        return names
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if pickles := sorted(p.name for p in path.glob("*.bin")):
        raise InputError(
            f"{path}: holds no model.safetensors; {pickles[0]} is a pickle, which can run code and "
            f"is never opened: save the model with safe_serialization=True"
        )
    raise InputError(f"{path}: holds neither model.safetensors nor {_INDEX}")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error


def _sizes(path: Path) -> dict[str, Any]:
    """config.json as values of `ModelConfig`; refuses what our transformer does not compute."""
    config = read_json(path)
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InputError(f"{path}: model_type must be one of {', '.join(_FAMILIES)}, got {family}")
    for name, wanted in (
        ("hidden_act", "silu"),
        ("mlp_bias", False),
        ("use_sliding_window", False),
        ("quantization_config", None),
        ("partial_rotary_factor", 1.0),
    ):
        if config.get(name, wanted) != wanted:
            raise InputError(f"{path}: {name} = {config[name]!r} is not supported, only {wanted!r}")

    def number(name: str, default: float | None = None, of: dict[str, Any] = config) -> float:
        value: Any = default if of.get(name) is None else of[name]
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise InputError(f"{path}: {name} must be a positive number, got {value!r}")
        return float(value)

    def count(name: str, default: int | None = None) -> int:
        value = number(name, default)
        if value != int(value):
            raise InputError(f"{path}: {name} must be a whole number, got {value}")
        return int(value)

    hidden_size, num_heads = count("hidden_size"), count("num_attention_heads")
    default_head_dim = 128 if family == "qwen3" else hidden_size // num_heads
    has_bias = bool(config.get("attention_bias", False))
    return {
        "hidden_size": hidden_size,
        "num_layers": count("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": count("num_key_value_heads", num_heads),
        "head_dim": count("head_dim", default_head_dim),
        "intermediate_size": count("intermediate_size"),
        "norm_eps": number("rms_norm_eps", 1e-6),
        "attention_bias": "qkv" if family == "qwen2" else "all" if has_bias else "none",
        "qk_norm": family == "qwen3",
        "tie_text_head": bool(config.get("tie_word_embeddings", False)),
        **_rope(path, config, number),
    }


def _rope(path: Path, config: dict[str, Any], number: Callable[..., float]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters, before it was rope_theta and rope_scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters must be an object, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise InputError(f"{path}: RoPE scaling {kind!r} is not supported, only default and llama3")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"{path}: partial_rotary_factor is not supported")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    values: dict[str, Any] = {"rope_theta": number("rope_theta", 10000.0, {"rope_theta": theta})}
    if kind == "default":
        return {**values, "rope_scaling": "none"}
    return {
        **values,
        "rope_scaling": "llama3",
        "rope_factor": number("factor", None, rope),
        "rope_low_frequency": number("low_freq_factor", None, rope),
        "rope_high_frequency": number("high_freq_factor", None, rope),
        "rope_original_tokens": int(number("original_max_position_embeddings", None, rope)),
    }
