"""Weights in and out: safetensors, checked by name, shape and value, written atomically."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.files.regular import open_regular, parse_errors

Model = TypeVar("Model", bound=nn.Module)

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
        InputError: The file is unreadable, or its tensors are not those of the model: one is
            missing, of another shape, not the model's, or holds what no weight can be.
    """
    check_shapes(model, path)
    tensors = read_weights(path)
    for name, parameter in model.named_parameters():  # a shared parameter counts once
        parameter.data.copy_(tensors[name])


def load_model(make: Callable[[], Model], path: str | Path) -> Model:
    """Makes a model with the weights of a safetensors file.

    Sizes come from other files than the weights do. So memory is taken only after it is known that
    the file has as many weights.

    Args:
        make: Makes the model.
        path: The file.

    Raises:
        InputError: As `load_weights`.
    """
    with _NoInit():
        with torch.device("meta"):
            check_shapes(make(), path)
        model = make()
    load_weights(model, path)
    return model


def check_shapes(model: nn.Module, path: str | Path) -> None:
    """Compares the names and shapes of a file's tensors with those of a model's parameters.

    Raises:
        InputError: The file is unreadable, or they differ.
    """
    with open_weights(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
    for name, parameter in model.named_parameters():
        want = tuple(parameter.shape)
        if name not in shapes:
            raise InputError(f"{path}: no tensor '{name}'")
        if shapes[name] != want:
            raise InputError(f"{path}: tensor '{name}' must be {want}, got {shapes[name]}")
    foreign = sorted(shapes.keys() - model.state_dict().keys())
    if foreign:  # such as the layers of a deeper model
        raise InputError(f"{path}: tensor '{foreign[0]}' is not one of this model's")


class _NoInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`: the numbers come from a file.

    On the device "meta" drawing them takes most of a second, for PyTorch loads its compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
