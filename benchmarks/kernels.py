"""The Triton kernels and their PyTorch paths: resources without a GPU, timings with or without one.

    python benchmarks/kernels.py                      # this CPU: the PyTorch paths
    python benchmarks/kernels.py --device cuda        # a GPU: the Triton kernels
    python benchmarks/kernels.py --compile-only       # sm_80, sm_90, gfx942; needs neither
    python benchmarks/kernels.py --cases linear_cross_entropy,.*V=2048 --threads 1 --quick

Providers:
    ours            the public op, forward and backward
    torch           what one writes without it: full logits, then F.cross_entropy or softmax
    torch_compile   the same under torch.compile (GPU only)
    floor           what an H100 could do at best: FLOPs / peak or bytes / bandwidth

Each op is compared with its reference first. --compile-only writes kernels_resources.csv instead:
registers, shared memory, bytes spilled to local memory and estimated occupancy of every kernel.
"""

import argparse
import csv
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
import triton
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.backends.compiler import GPUTarget

from benchmarks.harness import ROOT, Options, Report, measure, parse_options
from store_engine.kernels import linear_cross_entropy as lce
from store_engine.kernels import masked_softmax as softmax
from store_engine.testing import assert_as_accurate

RESULTS = ROOT / "benchmarks" / "results"
# H100 SXM data sheet: dense bf16 and float32 FLOP/s, bytes/s
PEAK_FLOPS = {torch.bfloat16: 989e12, torch.float32: 67e12}
BANDWIDTH = 3.35e12

# ---------------------------------------------------------------------- resources, without a GPU


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

RESOURCES = ("registers", "shared_bytes", "spill_bytes", "occupancy")

# types of the kernels' arguments; "x" is the dtype under test
TYPES = {
    "*x": "hidden_ptr weight_ptr x_ptr y_ptr dx_ptr dy_ptr",
    "*fp32": "losses_ptr lse_ptr dlosses_ptr dhidden_ptr dweight_ptr",
    "*i32": "plan_ptr bounds_ptr allowed_ptr",
    "*i1": "is_correct_ptr",
    "i32": "num_rows num_tiles vocab_size hidden_size stride",
    "fp32": "label_smoothing z_loss inverse_temperature",
}
TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names.split()}
# sizes that models keep to multiples of 16, which the launcher tells the compiler
ALIGNED = {"hidden_size", "vocab_size"}


class Kernel(NamedTuple):
    """One kernel as it is launched."""

    name: str
    function: Any
    dtype: str
    config: dict[str, Any]


def all_kernels() -> Iterator[Kernel]:
    """Every kernel of the package at the tile sizes that its op launches it with."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for dtype, torch_dtype in dtypes.items():
        config = lce._launch_config(torch_dtype)
        for step in ("fwd", "dhidden", "dweight"):
            name = f"linear_cross_entropy_{step}"
            yield Kernel(name, getattr(lce, f"_{name}_kernel"), dtype, config)
    for step in ("fwd", "bwd"):
        for vocab_size in (256, 1 << 16):
            for kind, is_bitmask in (("range", False), ("bitmask", True)):
                config = softmax._launch_config(vocab_size)
                name = f"masked_softmax_{step},{kind},block={config['BLOCK']}"
                config |= {"IS_BITMASK": is_bitmask, "LOG": False}
                yield Kernel(
                    name, getattr(softmax, f"_masked_softmax_{step}_kernel"), "bf16", config
                )


def compile_kernel(kernel: Kernel, target: Target) -> dict[str, int | float]:
    """Compiles ahead of time and reads the resources from the machine code."""
    from triton.compiler import ASTSource, compile

    config = dict(kernel.config)
    options = {key: config.pop(key) for key in ("num_warps", "num_stages") if key in config}
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.function.arg_names):
        kind = "constexpr" if name in config else TYPE_OF[name]
        signature[name] = f"*{kernel.dtype}" if kind == "*x" else kind
        if kind.startswith("*") or name in ALIGNED:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel.function, signature, config, attributes)
    compiled = compile(source, target=target.gpu, options=options)
    read = _read_amd if target.gpu.backend == "hip" else _read_nvidia
    registers, spill_bytes = read(compiled.asm)
    shared_bytes = compiled.metadata.shared
    warps = options.get("num_warps", 4)
    occupancy = _occupancy(registers, shared_bytes, warps, target)
    figures = registers, shared_bytes, spill_bytes, round(occupancy, 3)
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


def _occupancy(registers: int, shared_bytes: int, warps: int, target: Target) -> float:
    """Share of the warps that a multiprocessor could hold; limited by registers and memory."""
    lanes = target.gpu.warp_size
    per_warp = -(-registers // 8) * 8 * lanes  # registers are handed out in eights
    by_registers = target.registers_per_sm // (per_warp * warps)
    # CUDA keeps 1 KiB for itself in every block
    by_memory = target.shared_per_sm // max(shared_bytes + (1024 if lanes == 32 else 0), 1)
    blocks = min(by_registers, by_memory, target.warps_per_sm // warps, 32)
    return blocks * warps / target.warps_per_sm


def write_resources(options: Options) -> int:
    """Compiles everything, writes the table, and returns the number of kernels that do not fit."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # silences a warning of Triton 3.9
    rows: list[dict[str, Any]] = []
    for kernel in all_kernels():
        for name, target in TARGETS.items():
            if options.wants(f"{kernel.name},{kernel.dtype},{name}"):
                tiles = " ".join(f"{k}={v}" for k, v in kernel.config.items())
                row = {"kernel": kernel.name, "function": kernel.function.__name__}
                row |= {"dtype": kernel.dtype, "target": name, "config": tiles}
                rows.append(row | compile_kernel(kernel, target))
    columns = ("kernel", "function", "dtype", "target", *RESOURCES, "config")
    table = Table(*columns[:-1])
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns[:-1]))
    Console(width=120).print(table)
    is_default = options.out == RESULTS / "kernels.csv"
    out = RESULTS / "kernels_resources.csv" if is_default else options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    is_bad = [
        r["spill_bytes"] > 0 or r["shared_bytes"] > TARGETS[r["target"]].shared_per_block
        for r in rows
    ]
    return sum(is_bad)


# --------------------------------------------------------------------------------------- timings


@dataclass(frozen=True)
class Case:
    """One workload: what runs, and what it costs at least."""

    name: str  # ends in the dtype
    dtype: torch.dtype
    make: Callable[[], "Work"]
    is_slow: bool = False


class Work(NamedTuple):
    """Inputs made, ready to run."""

    inputs: list[Tensor]  # differentiable
    dout: Tensor
    ours: Callable[..., Tensor]
    torch: Callable[..., Tensor]  # the plain way
    check: Callable[[], None]
    flops: float
    num_bytes: float


def loss_case(
    num_rows: int, hidden_size: int, vocab_size: int, length: int, dtype: torch.dtype, device: str
) -> Case:
    """linear_cross_entropy where each row sees one of vocab_size / length slices."""

    def make() -> Work:
        hidden = torch.randn(num_rows, hidden_size, device=device).to(dtype)
        weight = (0.05 * torch.randn(vocab_size, hidden_size, device=device)).to(dtype)
        targets = torch.randint(0, vocab_size, (num_rows,), device=device)
        start = targets // length * length
        sizes = torch.full_like(start, length)

        def full(hidden: Tensor, weight: Tensor) -> Tensor:
            return F.cross_entropy((hidden @ weight.T).float(), targets)

        def check() -> None:
            few = slice(0, 512)  # the reference needs several full logits
            rows: dict[str, Any] = {
                "targets": targets[few],
                "start": start[few],
                "length": sizes[few],
            }
            assert_as_accurate(
                partial(lce.linear_cross_entropy, **rows),
                partial(lce.linear_cross_entropy_ref, **rows),
                [hidden[few], weight],
                torch.ones((), device=device),
            )

        ours = partial(lce.linear_cross_entropy, targets=targets, start=start, length=sizes)
        once = hidden.numel() + weight.numel()
        return Work(
            [hidden, weight],
            torch.ones((), device=device),
            ours,
            full,
            check,
            flops=6.0 * num_rows * hidden_size * length,
            num_bytes=4.0 * once * hidden.element_size(),  # read twice, gradients written twice
        )

    shape = f"T={num_rows},d={hidden_size},V={vocab_size},length={length}"
    name = f"linear_cross_entropy,{shape},{short(dtype)}"
    return Case(name, dtype, make, is_slow=num_rows * vocab_size > 1 << 26)


def softmax_case(
    kind: str, num_rows: int, vocab_size: int, dtype: torch.dtype, device: str
) -> Case:
    """masked_softmax over an eighth of the vocabulary, against softmax of masked_fill."""

    def make() -> Work:
        logits = torch.randn(num_rows, vocab_size, device=device).to(dtype)
        start = torch.randint(0, 8, (num_rows,), device=device) * (vocab_size // 8)
        cols = torch.arange(vocab_size, device=device)
        is_allowed = (cols >= start[:, None]) & (cols < start[:, None] + vocab_size // 8)
        every: dict[str, Any] = {
            "slice": (vocab_size // 8, vocab_size // 8),
            "ranges": (start, torch.full_like(start, vocab_size // 8)),
            "bitmask": softmax.pack_bitmask(is_allowed),
        }
        allowed = every[kind]
        if kind == "slice":
            is_allowed = (cols >= vocab_size // 8) & (cols < vocab_size // 4)
        ours = partial(softmax.masked_softmax, allowed=allowed)
        ref = partial(softmax.masked_softmax_ref, allowed=allowed)
        dout = torch.randn_like(logits)

        def plain(logits: Tensor) -> Tensor:
            return logits.masked_fill(~is_allowed, -float("inf")).softmax(-1)

        def check() -> None:
            assert_as_accurate(ours, ref, [logits], dout.float())

        row_bytes = vocab_size * logits.element_size()
        moved = num_rows * row_bytes * (1 / 8 + 1 + 2 / 8 + 1)  # a range read, a row written; twice
        return Work([logits], dout, ours, plain, check, flops=0.0, num_bytes=moved)

    name = f"masked_softmax,{kind},rows={num_rows},V={vocab_size},{short(dtype)}"
    return Case(name, dtype, make)


def short(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def all_cases(device: str) -> list[Case]:
    """The table of cases; the shapes of METHOD's heads and of SmolLM2."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        cases += [
            loss_case(8192, 128, 2048, 2048, dtype, device),
            loss_case(8192, 128, 2048, 64, dtype, device),
            loss_case(8192, 576, 49152, 49152, dtype, device),
            loss_case(8192, 576, 49152, 256, dtype, device),
            *(
                softmax_case(kind, 8192, 2048, dtype, device)
                for kind in ("slice", "ranges", "bitmask")
            ),
        ]
    return cases


def run_case(case: Case, options: Options, report: Report) -> None:
    """Checks the op against its reference, then times it, forward and backward."""
    work = case.make()
    work.check()
    leaves = [x.requires_grad_() for x in work.inputs]
    dtype = short(case.dtype)
    providers = {"ours": work.ours, "torch": work.torch}
    if options.device.startswith("cuda"):
        providers["torch_compile"] = torch.compile(work.torch)

    def step(op: Callable[..., Tensor]) -> None:
        torch.autograd.grad(op(*leaves), leaves, work.dout)

    for provider, op in providers.items():
        gradients = sum(x.numel() * x.element_size() for x in leaves) / 2**20  # all must make them
        peak = peak_mib(partial(step, op), options.device) - gradients
        report.add(provider, case.name, "extra_peak_mib", "MiB", peak, dtype)
        duration = measure(partial(step, op), options, min_repeats=3 if case.is_slow else 5)
        report.add(provider, case.name, "fwd_bwd_ms", "ms", duration, dtype)
    report.add_ratio("ours", "torch", case.name, "fwd_bwd_ms")
    floor_ms = 1e3 * max(work.flops / PEAK_FLOPS[case.dtype], work.num_bytes / BANDWIDTH)
    report.add("floor", case.name, "h100_roofline_ms", "ms", floor_ms, dtype)


def peak_mib(run: Callable[[], object], device: str) -> float:
    """Memory that one run needs beyond what is there before it, in MiB."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status_kib("VmRSS")
    run()
    return (_status_kib("VmHWM") - before) / 2**10


def _status_kib(field: str) -> int:
    return int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


# ------------------------------------------------------------------------------------------ main


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--compile-only", action="store_true", help="write kernels_resources.csv")


def main() -> int:
    """Runs what the command line asks for; 1 if a kernel spills or does not fit."""
    options = parse_options("kernels", __doc__, add_options)
    if options.extra.compile_only:
        return int(write_resources(options) > 0)
    torch.manual_seed(0)
    report = Report("kernels", options)
    for case in all_cases(options.device):
        if options.wants(case.name) and not (options.quick and case.is_slow):
            run_case(case, options, report)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
