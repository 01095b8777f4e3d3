"""A Hugging Face checkpoint folder: config.json and safetensors, in one file or in shards.

Tensors are read one at a time from mapped files. A pickle (pytorch_model.bin) is never opened.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.model.weights import open_weights, read_weight

_FAMILIES = ("llama", "qwen2", "qwen3")
_MAX_NUMBER = 1e15  # beyond every size and every base of RoPE
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
        self._files: dict[str, tuple[Path, Any]] = {}  # tensor -> the file that holds it
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file_path in (path / name for name in _weight_files(path)):
            file = open_weights(file_path)
            for name in list(file.keys()):
                if name in self._files:
                    other = self._files[name][0].name
                    raise InputError(f"{file_path}: tensor '{name}' is in {other} too")
                self._files[name] = file_path, file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Returns a tensor, in the dtype it is stored in.

        Raises:
            InputError: It is of no type that weights have, or holds NaN or infinity.
        """
        path, file = self._files[name]
        return read_weight(file, name, path)


def _weight_files(path: Path) -> list[str]:
    if (path / _INDEX).is_file():
        files = read_json(path / _INDEX).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise InputError(f"{path / _INDEX}: lacks weight_map")
        for name in files.values():
            # an index from elsewhere must not make us read outside its folder
            is_plain = isinstance(name, str) and name == Path(name).name and "\0" not in name
            if not is_plain or not name.endswith(".safetensors"):
                raise InputError(
                    f"{path / _INDEX}: {str(name)[:200]!r} is not a safetensors file beside it"
                )
        return sorted(set(files.values()))
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if pickles := sorted(p.name for p in path.glob("*.bin")):
        raise InputError(
            f"{path}: holds no model.safetensors; {pickles[0]} is a pickle, which can run code and "
            f"is never opened: save the model with safe_serialization=True"
        )
    raise InputError(f"{path}: holds neither model.safetensors nor {_INDEX}")


def _sizes(path: Path) -> dict[str, Any]:
    """config.json as values of `ModelConfig`; refuses what our transformer does not compute."""
    config = read_json(path)
    family = config.get("model_type")
    if family not in _FAMILIES:
        families = ", ".join(_FAMILIES)
        raise InputError(f"{path}: model_type must be one of {families}, got {str(family)[:100]}")
    for name, wanted in (
        ("hidden_act", "silu"),
        ("mlp_bias", False),
        ("use_sliding_window", False),
        ("quantization_config", None),
        ("partial_rotary_factor", 1.0),
    ):
        value = config.get(name, wanted)
        if value != wanted:
            raise InputError(
                f"{path}: {name} = {repr(value)[:100]} is not supported, only {wanted!r}"
            )

    def number(name: str, default: float | None = None, of: dict[str, Any] = config) -> float:
        value: Any = default if of.get(name) is None else of[name]
        if type(value) not in (int, float) or not 0 < value < _MAX_NUMBER:
            raise InputError(f"{path}: {name} must be a positive number, got {str(value)[:50]}")
        return float(value)

    def count(name: str, default: int | None = None, of: dict[str, Any] = config) -> int:
        value = number(name, default, of)
        if value != int(value):
            raise InputError(f"{path}: {name} must be a whole number, got {value}")
        return int(value)

    def flag(name: str) -> bool:
        value = config.get(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{path}: {name} must be true or false, got {str(value)[:50]!r}")
        return value

    hidden_size, num_heads = count("hidden_size"), count("num_attention_heads")
    default_head_dim = 128 if family == "qwen3" else hidden_size // num_heads
    return {
        "hidden_size": hidden_size,
        "num_layers": count("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": count("num_key_value_heads", num_heads),
        "head_dim": count("head_dim", default_head_dim),
        "intermediate_size": count("intermediate_size"),
        "norm_eps": number("rms_norm_eps", 1e-6),
        "attention_bias": "qkv"
        if family == "qwen2"
        else "all"
        if flag("attention_bias")
        else "none",
        "qk_norm": family == "qwen3",
        "tie_text_head": flag("tie_word_embeddings"),
        **_rope(path, config, number, count),
    }


def _rope(
    path: Path,
    config: dict[str, Any],
    number: Callable[..., float],
    count: Callable[..., int],
) -> dict[str, Any]:
    """transformers 5 writes rope_parameters, before it was rope_theta and rope_scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters must be an object, got {str(rope)[:100]}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        kind = str(kind)[:100]
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
        "rope_original_tokens": count("original_max_position_embeddings", None, rope),
    }
