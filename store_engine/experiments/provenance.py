"""Where a figure comes from: the machine, the commit, the data."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePath

import store_engine

_SOURCE = Path(store_engine.__file__).resolve().parents[1]
# results are written while experiments go on; they decide nothing
_COUNTED = (".", ":(exclude)benchmarks/results")


def machine(device: str = "cpu") -> str:
    """The processor's name and number of cores, and the GPU's name when one is used.

    A name may stand for several generations, as a cloud's "AMD EPYC": its family and model tell.
    """
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", cpuinfo.read_text(), re.M)
        of = {key: value.strip() for key, value in found}
        if "model name" in of:
            name = f"{of['model name']} ({of.get('cpu family')}/{of.get('model')})"
    name = f"{name} x{os.cpu_count()}"
    if not device.startswith("cuda"):
        return name
    import torch

    return f"{name} + {torch.cuda.get_device_name(device)}"


def commit() -> str:
    """The short hash of the checkout, with "+" when files differ from it; "unknown" without git."""
    if not (_SOURCE / ".git").exists():
        return "unknown"  # installed: a checkout around it is another project's
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "-uno", "--", *_COUNTED) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def data_checksum(sources: Mapping[str, str]) -> str:
    """One digest of all files that a run was made from, whatever folder they are in.

    Args:
        sources: Path -> SHA-256 of each file, as a run's manifest lists them.

    Returns:
        12 hexadecimal digits; "" if there are no files.
    """
    if not sources:
        return ""
    lines = sorted(f"{digest} {PurePath(path).name}" for path, digest in sources.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=_SOURCE, capture_output=True, text=True, check=True)
    return done.stdout.strip()
