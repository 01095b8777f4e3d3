"""The dtype that a model runs in, for training and decoding alike."""

from typing import Literal, get_args

import torch

from store_engine.errors import InputError, shown

Dtype = Literal["auto", "float32", "bfloat16"]


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
