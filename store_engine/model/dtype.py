"""The device and the dtype that a model runs in, for training and decoding alike."""

import re
from typing import Literal, get_args

import torch

from store_engine.errors import InputError, shown

Dtype = Literal["auto", "float32", "bfloat16"]


def choose_device(device: str | torch.device) -> torch.device:
    """Returns the device of a name; "auto" is cuda where there is one, else cpu.

    Raises:
        InputError: It is no name of a device, or this machine does not have it.
    """
    name = str(device) if isinstance(device, torch.device) else device
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise InputError(f"device must be cpu, cuda, cuda:N or auto, got {shown(device)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch was built without CUDA
        raise InputError(f"device {name}: this machine has no such device") from error
    return torch.device(name)


def choose_dtype(dtype: Dtype, device: str | torch.device) -> torch.dtype:
    """Resolves "auto": bfloat16 on a device that computes in it, else float32.

    Raises:
        InputError: It is no name of a dtype.
    """
    if not isinstance(dtype, str) or dtype not in get_args(Dtype):
        raise InputError(f"dtype must be auto, float32 or bfloat16, got {shown(dtype)}")
    if dtype == "auto":
        dtype = "bfloat16" if computes_in_bfloat16(device) else "float32"
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def computes_in_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Says whether a device has instructions for bfloat16 products."""
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported() if kind == "cuda" else True
