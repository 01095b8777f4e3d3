"""The Triton kernels and their PyTorch paths, timed on this machine.

    python benchmarks/kernels.py                      # this CPU: the PyTorch paths
    python benchmarks/kernels.py --device cuda        # a GPU: the Triton kernels
    python benchmarks/kernels.py --roofline           # bytes, FLOPs and the bound of an H100
    python benchmarks/kernels.py --cases linear_cross_entropy,.*V=2048 --threads 1 --quick

Providers:
    ours            the public op, forward and backward
    torch           what one writes without it: full logits, then F.cross_entropy; a softmax after
                    masked_fill; attention with a copy of the context for every beam
    unconstrained   log-softmax and top-k over all codes, without any trie
    torch_compile   the one of these under torch.compile (GPU only)
    liger           LigerFusedLinearCrossEntropyLoss over all logits, LigerSiLUMulFunction for
                    SwiGLU, LigerFusedAddRMSNormFunction (GPU only, if installed)
    ours_torch      the definition of an op of a search in plain PyTorch; `ours` is what "auto"
    ours_triton     chooses, and this its kernels by name (GPU only)
    floor           the lower bound of an H100, its roofline: FLOPs / peak or bytes / bandwidth

Each op is compared with its reference first. Training ops are timed forward and backward; their
extra_peak_mib leaves out inputs and gradients, which all must hold. On a GPU the device's own clock
times them, with a cold L2 cache (measuring/gpu_clock.py), and share_of_roofline stands beside each,
where the data sheet of that GPU is known. kernel_resources.py tells registers and spills without a
GPU.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.measuring.data_sheet import H100, data_sheet
from benchmarks.measuring.gpu_clock import replayed
from benchmarks.measuring.harness import Options, Report, measure, parse_options
from benchmarks.measuring.memory import ExtraPeak
from benchmarks.ops.cases import all_cases
from benchmarks.ops.workload import Case, Work, short


def main() -> None:
    """Runs what the command line asks for."""
    options = parse_options("kernels", __doc__, add_options)
    torch.manual_seed(0)
    if options.extra.roofline:
        for case in all_cases(options.device, has_decode=True):
            if options.wants(case.name):
                print_roofline(case, case.make())
        return
    report = Report("kernels", options)
    # on a CPU decoding runs _C.beam_step, which decode.py times
    for case in all_cases(options.device, has_decode=options.device != "cpu"):
        if options.wants(case.name) and not (options.quick and case.is_slow):
            run_case(case, options, report)
    report.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--roofline", action="store_true", help="print the bounds and stop")


def run_case(case: Case, options: Options, report: Report) -> None:
    """Checks the op against its reference, then times it."""
    work, dtype = case.make(), short(case.dtype)
    work.check()
    is_cuda = options.device.startswith("cuda")
    providers = {"ours": work.ours, work.other_name: work.other}
    if is_cuda and work.other_name != "ours_torch":
        providers["torch_compile"] = torch.compile(work.other)
    if is_cuda and work.triton is not None:
        providers["ours_triton"] = work.triton
    if is_cuda and work.liger is not None:
        providers["liger"] = work.liger
    metric = "fwd_ms" if work.dout is None else "fwd_bwd_ms"
    sheet = data_sheet(options.device)
    gradients_mib = 0.0
    if work.dout is not None:
        gradients_mib = sum(x.requires_grad_().nbytes for x in work.inputs) / 2**20

    def step(op: Callable[..., Any]) -> None:
        out = op(*work.inputs)
        if work.dout is not None:
            torch.autograd.grad(out, work.inputs, work.dout)

    for provider, op in providers.items():
        memory = ExtraPeak(options.device)
        step(op)
        peak = memory.mib() - gradients_mib
        report.add(provider, case.name, "extra_peak_mib", "MiB", peak, dtype)
        run: Callable[[], object] = partial(step, op)
        if is_cuda and work.dout is None:  # as a search runs it: without the host's part
            run = replayed(run)
        duration = measure(run, options, min_repeats=3 if case.is_slow else 5)
        report.add(provider, case.name, metric, "ms", duration, dtype)
        if sheet is not None:
            bound_ms = sheet.milliseconds(work.num_bytes, work.flops, case.dtype)
            share = bound_ms / duration.p50
            report.add(provider, case.name, "share_of_roofline", "", share, dtype)
    for other in providers:
        if other != "ours":
            report.add_ratio("ours", other, case.name, metric)
    report.add("floor", case.name, "h100_roofline_ms", "ms", print_roofline(case, work), dtype)


def print_roofline(case: Case, work: Work) -> float:
    """Prints what an H100 could do at best; returns its milliseconds."""
    bound_ms = H100.milliseconds(work.num_bytes, work.flops, case.dtype)
    is_memory = bound_ms == H100.milliseconds(work.num_bytes, 0, case.dtype)
    bound = "memory" if is_memory else "compute"
    figures = f"{work.flops / 1e9:,.1f} GFLOP, {work.num_bytes / 2**20:,.1f} MiB"
    print(f"{case.name}: {figures}, at least {bound_ms:.4f} ms on an H100, bound by {bound}")
    return bound_ms


if __name__ == "__main__":
    main()
