"""What each Triton kernel takes of a GPU, read from code compiled ahead of time: no GPU is needed.

    python benchmarks/kernel_resources.py                   # into results/kernels_resources.csv
    python benchmarks/kernel_resources.py --cases fp32,sm_90 --out some.csv
    PYTHONPATH=folder/with/triton-3.6 python benchmarks/kernel_resources.py    # another compiler

Registers, shared memory, bytes spilled to local memory and estimated occupancy on sm_80, sm_90 and
gfx942, at the tile sizes that the ops launch, and bytes and FLOPs of a launch at the shapes of
ops/kernel_cases.py. Compilers differ: rows state Triton's version, and
only rows of the version that runs are replaced. The exit status is 1 if a kernel spills or does not
fit; tests/kernels/test_ahead_of_time.py holds the same.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from benchmarks.measuring.harness import Options, parse_options, print_table
from benchmarks.ops.kernel_cases import TYPE_OF, Kernel, all_kernels


class Target(NamedTuple):
    """What limits occupancy on one architecture."""

    gpu: GPUTarget
    shared_per_sm: int  # bytes
    shared_per_block: int  # bytes
    warps_per_sm: int
    registers_per_sm: int  # 32-bit, over all lanes


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 164 << 10, 163 << 10, 64, 65536),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 228 << 10, 227 << 10, 64, 65536),
    # 4 SIMDs of 512 registers x 64 lanes, 8 wavefronts each
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 << 10, 64 << 10, 32, 4 * 512 * 64),
}

COSTS = ("bytes", "flops")
RESOURCES = ("registers", "shared_bytes", "spill_bytes", "occupancy")
COLUMNS = ("triton", "kernel", "function", "dtype", "target", *RESOURCES, *COSTS, "config")

# sizes that models keep to multiples of 16, which the launcher tells the compiler
ALIGNED = {
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "length",
    "codebook_size",
    "head_dim",
    "stride_batch",
    "stride_slot",
}


def compile_kernel(kernel: Kernel, target: Target) -> dict[str, int | float]:
    """Compiles ahead of time and reads the resources from the machine code."""
    config = dict(kernel.config)
    launch = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
    options = {key: config.pop(key) for key in launch if key in config}
    if target.gpu.backend == "hip":
        options.pop("maxnreg", None)  # NVIDIA's
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.function.arg_names):
        kind = "constexpr" if name in config else kernel.types.get(name, TYPE_OF[name])
        signature[name] = f"*{kernel.dtype}" if kind == "*x" else kind
        if kind.startswith("*") or name in ALIGNED:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel.function, signature, config, attributes)
    compiled = compile(source, target=target.gpu, options=options)
    read = _read_amd if target.gpu.backend == "hip" else _read_nvidia
    registers, spill_bytes = read(compiled.asm)
    shared_bytes = compiled.metadata.shared
    warps = options.get("num_warps", 4)
    share = occupancy(registers, shared_bytes, warps, target)
    figures = registers, shared_bytes, spill_bytes, round(share, 3)
    return dict(zip(RESOURCES, figures, strict=True))


def _read_nvidia(asm: dict[str, Any]) -> tuple[int, int]:
    """Registers per thread and bytes of local memory, which a spill needs."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(re.findall(rf"{key}:(\d+)", usage)[0]) for key in ("REG", "STACK", "LOCAL")}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _read_amd(asm: dict[str, Any]) -> tuple[int, int]:
    """Vector registers per lane and bytes of scratch memory.

    Scalar registers that do not fit go to lanes of vector registers, not to memory.
    """
    text = asm["amdgcn"]

    def read(key: str) -> int:
        return int(re.findall(rf"\.{key}:\s+(\d+)", text)[0])

    scratch = read("private_segment_fixed_size") + 4 * read("vgpr_spill_count")
    return read("vgpr_count") + read("agpr_count"), scratch


def occupancy(registers: int, shared_bytes: int, warps: int, target: Target) -> float:
    """Share of the warps that a multiprocessor could hold; limited by registers and memory."""
    lanes = target.gpu.warp_size
    per_warp = -(-registers // 8) * 8 * lanes  # registers are handed out in eights
    by_registers = target.registers_per_sm // (per_warp * warps)
    # CUDA keeps 1 KiB for itself in every block
    by_memory = target.shared_per_sm // max(shared_bytes + (1024 if lanes == 32 else 0), 1)
    blocks = min(by_registers, by_memory, target.warps_per_sm // warps, 32)
    return blocks * warps / target.warps_per_sm


def measure_all(options: Options) -> list[dict[str, Any]]:
    """One row for every kernel on every target that --cases selects."""
    rows: list[dict[str, Any]] = []
    for kernel in all_kernels():
        for name, target in TARGETS.items():
            if options.wants(f"{kernel.name},{kernel.dtype},{name}"):
                tiles = " ".join(f"{k}={v}" for k, v in kernel.config.items())
                row = {"triton": triton.__version__, "kernel": kernel.name}
                row |= {"function": kernel.function.__name__, "dtype": kernel.dtype}
                row |= {"target": name, "config": tiles}
                row |= dict(zip(COSTS, map(round, kernel.cost), strict=True))
                rows.append(row | compile_kernel(kernel, target))
    return rows


def write(rows: list[dict[str, Any]], options: Options) -> None:
    """Writes the rows in the place of earlier ones of this Triton; those of another stay."""

    def is_kept(row: dict[str, Any]) -> bool:
        name = f"{row['kernel']},{row['dtype']},{row['target']}"
        return row["triton"] != triton.__version__ or not options.wants(name)

    out, others = options.out, []
    if out.exists():
        with out.open(newline="") as file:
            others = list(filter(is_kept, csv.DictReader(file)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(others + rows, key=lambda row: row["triton"]))


def does_not_fit(row: dict[str, Any]) -> bool:
    """True for a kernel that spills, or needs more shared memory than a block may have."""
    limit = TARGETS[row["target"]].shared_per_block
    return row["spill_bytes"] > 0 or row["shared_bytes"] > limit


def main() -> int:
    """Compiles everything; 1 if a kernel does not fit."""
    options = parse_options("kernels_resources", __doc__, has_gpu=False)
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1: an interpreted kernel cannot be compiled", file=sys.stderr)
        return 2
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # silences a warning of Triton 3.9
    rows = measure_all(options)
    print_table(COLUMNS[:-1], ([row[name] for name in COLUMNS[:-1]] for row in rows))
    write(rows, options)
    return int(any(map(does_not_fit, rows)))


if __name__ == "__main__":
    sys.exit(main())
