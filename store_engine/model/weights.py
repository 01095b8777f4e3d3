"""Weights in and out: safetensors, checked by name, shape and value, written atomically."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors

_DTYPES = ("F32", "BF16", "F16")  # by safetensors' names; no other is cast in silence


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
    """Reads a safetensors file of weights.

    Raises:
        InputError: The file is missing, truncated, no safetensors, or a tensor holds what no
            weight can be; see `check_weight`.
    """
    with open_weights(path) as file:
        return {name: read_weight(file, name, path) for name in list(file.keys())}


def open_weights(path: str | Path) -> Any:
    """Opens a safetensors file, whose tensors are read one at a time; a context manager.

    Raises:
        InputError: The file is missing, no regular file, truncated or no safetensors.
    """
    with parse_errors(path, "a readable safetensors file"):
        open_regular(path).close()  # a FIFO would block the library
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(str(error)) from error


def read_weight(file: Any, name: str, path: str | Path) -> Tensor:
    """Reads and checks one tensor of a file from `open_weights`.

    Raises:
        InputError: It cannot be read, or see `check_weight`.
    """
    with parse_errors(path, "a readable safetensors file"):
        try:
            # before its bytes are read: a type that torch lacks would raise only then
            kind = file.get_slice(name).get_dtype()
            if kind not in _DTYPES:
                raise InputError(f"tensor '{name}' must be of type {', '.join(_DTYPES)}, is {kind}")
            tensor: Tensor = file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"tensor '{name}': {error}") from error
    return check_weight(tensor, name, path)


def check_weight(tensor: Tensor, name: str, path: str | Path) -> Tensor:
    """Returns a tensor of weights, if all of them are finite.

    Raises:
        InputError: One is NaN or infinite.
    """
    if not bool(tensor.isfinite().all()):
        bad = int(tensor.numel() - tensor.isfinite().sum())
        raise InputError(
            f"{path}: tensor '{name}' holds NaN or infinity: {bad} of {tensor.numel()} numbers"
        )
    return tensor


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills every parameter of `model` (not partitioned) from a safetensors file.

    Raises:
        InputError: The file is unreadable, lacks a tensor, or one has another shape or holds what
            no weight can be.
    """
    tensors = read_weights(path)
    for name, parameter in model.named_parameters():  # a shared parameter counts once
        if name not in tensors:
            raise InputError(f"{path}: no tensor '{name}'")
        if tensors[name].shape != parameter.shape:
            want, got = tuple(parameter.shape), tuple(tensors[name].shape)
            raise InputError(f"{path}: tensor '{name}' must be {want}, got {got}")
        parameter.data.copy_(tensors[name])
