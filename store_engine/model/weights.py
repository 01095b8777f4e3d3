"""Weights in and out: safetensors, checked by name and shape, written atomically."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors


def save_weights(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes tensors to a safetensors file, which either stands complete or not at all.

    A tensor that appears under several names (a tied head) is written under the first.
    """
    seen: set[int] = set()
    unique: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            unique[name] = tensor.detach().cpu().contiguous()
    with atomic_open(path) as file:
        file.write(save(unique))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        InputError: The file is missing, truncated or no safetensors.
    """
    try:
        with parse_errors(path, "a readable safetensors file"):
            open_regular(path).close()  # a FIFO would block the library
            return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills every parameter of `model` (not partitioned) from a safetensors file.

    Raises:
        InputError: The file is unreadable, or lacks a tensor, or one has another shape.
    """
    tensors = read_weights(path)
    for name, parameter in model.named_parameters():  # a shared parameter counts once
        if name not in tensors:
            raise InputError(f"{path}: no tensor '{name}'")
        if tensors[name].shape != parameter.shape:
            want, got = tuple(parameter.shape), tuple(tensors[name].shape)
            raise InputError(f"{path}: tensor '{name}' must be {want}, got {got}")
        if not tensors[name].dtype.is_floating_point:
            raise InputError(f"{path}: tensor '{name}' must be of floats, is {tensors[name].dtype}")
        parameter.data.copy_(tensors[name])
