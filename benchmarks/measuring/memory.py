"""The most memory that some work needs, of this process or of its GPU, by their own counters."""

import ctypes
import re
from pathlib import Path

import torch


class ExtraPeak:
    """The most memory there is at any moment from now on, above what is there now.

    Args:
        device: "cuda": what PyTorch allocated there; else resident memory of this process.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what comes
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status_mib("VmRSS")

    def mib(self) -> float:
        """The most until now, in MiB."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated() / 2**20 - self._before
        return _status_mib("VmHWM") - self._before


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    return int(_status_mib("VmRSS") * 2**20)


def _status_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 2**10
