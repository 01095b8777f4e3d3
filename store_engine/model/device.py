"""The device that a model decodes on."""

import re

import torch

from store_engine.errors import InputError, shown

_FORM = r"auto|cpu|cuda(:\d{1,3})?"


def usable_device(device: str | torch.device) -> torch.device:
    """Returns the device of a name; "auto" is cuda where there is one, else the CPU.

    Raises:
        InputError: It is no name of a device, or this machine does not have it.
    """
    name = str(device) if isinstance(device, torch.device) else device
    if not isinstance(name, str) or not re.fullmatch(_FORM, name):
        raise InputError(f"device must be cpu, cuda, cuda:N or auto, got {shown(device)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter: PyTorch was built without CUDA
        raise InputError(f"device {name}: this machine has no such device") from error
    return torch.device(name)
