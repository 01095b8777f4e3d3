"""What stands on a machine: versions, signatures, and whether our C++ core is built."""

import importlib.machinery
import importlib.metadata
import importlib.util
import sys

import torch

from benchmarks import ROOT


def versions() -> dict[str, object]:
    """What stands on this machine, and what our kernels and models ask of PyTorch."""
    modules = "triton numpy deepspeed transformers liger_kernel flash_attn faiss safetensors "
    modules += "sentencepiece pyarrow rich pytest hypothesis pybind11 ninja"
    found: dict[str, object] = {"python": sys.version, "torch": torch.__version__}
    for name in modules.split():
        found[name] = module_version(name)
    found["core"] = has_core()
    found["cuda"] = torch.version.cuda
    found["varlen_attn"] = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    found["cuda._sleep"] = hasattr(torch.cuda, "_sleep")
    if torch.cuda.is_available():
        found["device"] = str(torch.cuda.get_device_properties(0))
    return found


def module_version(name: str) -> str | None:
    """A module's version, "?" if it does not say; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "?"


def has_core() -> bool:
    """Whether the C++ core is built for this Python."""
    suffix = next(s for s in importlib.machinery.EXTENSION_SUFFIXES if "abi3" not in s)
    return (ROOT / "store_engine" / f"_C{suffix}").exists()
