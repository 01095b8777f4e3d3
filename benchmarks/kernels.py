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
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.data_sheet import H100, data_sheet
from benchmarks.measuring.gpu_clock import replayed
from benchmarks.measuring.harness import Options, Report, measure, parse_options
from benchmarks.measuring.memory import ExtraPeak
from benchmarks.ops.decode_cases import decode_cases, liger_loss
from benchmarks.ops.workload import Case, Work, short
from store_engine.kernels import beam_attention as attention
from store_engine.kernels import linear_cross_entropy as lce
from store_engine.kernels import masked_softmax as softmax
from store_engine.kernels import trie_topk as trie
from store_engine.testing import ATOL, assert_as_accurate

# ---------------------------------------------------------------------------------------- cases


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
            return F.cross_entropy(F.linear(hidden, weight), targets)

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
            ours,
            full,
            check,
            flops=6.0 * num_rows * hidden_size * length,
            num_bytes=3.0 * once * hidden.element_size(),  # read twice, gradients written
            dout=torch.ones((), device=device),
            liger=liger_loss(targets) if device.startswith("cuda") else None,
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
        return Work([logits], ours, plain, check, flops=0.0, num_bytes=moved, dout=dout)

    name = f"masked_softmax,{kind},rows={num_rows},V={vocab_size},{short(dtype)}"
    return Case(name, dtype, make)


def topk_case(batch: int, beam_width: int, num_items: int, codebook_size: int, device: str) -> Case:
    """trie_topk at the level where beams fan out: every node has a quarter of the codes."""

    def make() -> Work:
        num_nodes = num_items * 4 // codebook_size
        is_child = torch.rand(num_nodes, codebook_size, device=device) < 0.25
        begin = F.pad(is_child.sum(1).cumsum(0), (1, 0))
        level = trie.Level(begin, is_child.nonzero()[:, 1])
        logits = torch.randn(batch, beam_width, codebook_size, device=device)
        scores = -torch.rand(batch, beam_width, device=device).sort(1)[0]
        nodes = torch.randint(0, num_nodes, (batch, beam_width), device=device)
        num_valid = torch.full_like(nodes[:, 0], beam_width)
        beams = trie.Beams(scores, nodes, nodes, nodes, num_valid, num_valid < 0)

        def ours(logits: Tensor, scores: Tensor) -> trie.Beams:
            return trie.trie_topk(logits, beams._replace(scores=scores), level, beam_width)

        def unconstrained(logits: Tensor, scores: Tensor) -> Any:
            every = scores[:, :, None] + logits.log_softmax(-1)
            return every.flatten(1).topk(beam_width)

        def check() -> None:
            want = trie.trie_topk_ref(logits, beams, level, beam_width)
            torch.testing.assert_close(ours(logits, scores).scores, want.scores)

        # the logits, and the codes of a quarter of them
        moved = logits.numel() * 4.0 + logits.numel() / 4 * 8.0
        work = Work([logits, scores], ours, unconstrained, check, 3.0 * logits.numel(), moved)
        return work._replace(other_name="unconstrained")

    shape = f"N={num_items},batch={batch},beam={beam_width},k={codebook_size}"
    return Case(f"trie_topk,{shape},float32", torch.float32, make)


def attention_case(
    batch: int, beam_width: int, context: int, head_dim: int, dtype: torch.dtype, device: str
) -> Case:
    """beam_attention of 9 heads on 3 key heads, against a cache that holds a context per beam."""

    def make() -> Work:
        num_tree = 2 * beam_width
        q = torch.randn(batch, beam_width, 9, head_dim, device=device).to(dtype)
        kv = torch.randn(2, batch, context + num_tree, 3, head_dim, device=device).to(dtype)
        keys, values = kv.unbind(0)
        lengths = torch.full((batch,), context, device=device)
        tree_mask = torch.rand(batch, beam_width, num_tree, device=device) < 0.1
        ours = partial(attention.beam_attention, context_lengths=lengths, tree_mask=tree_mask)
        ref = partial(attention.beam_attention_ref, context_lengths=lengths, tree_mask=tree_mask)
        # the beam's own copy: context and its two tree slots, with all heads
        own = kv[:, :, : context + 2].repeat_interleave(beam_width, 1).transpose(2, 3)
        own_keys, own_values = own.repeat_interleave(3, 2).contiguous().unbind(0)

        def copied(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rows = q.flatten(0, 1)[:, :, None]
            return F.scaled_dot_product_attention(rows, own_keys, own_values)

        def check() -> None:
            with torch.no_grad():
                error = (ours(q, keys, values) - ref(q, keys, values)).abs().max().item()
            assert error <= ATOL[dtype], f"error {error:.2e}"

        flops = 4.0 * batch * beam_width * 9 * head_dim * (context + num_tree)
        moved = (kv.numel() + 2 * q.numel()) * kv.element_size()
        return Work([q, keys, values], ours, copied, check, flops, moved)

    shape = f"batch={batch},beam={beam_width},context={context},head_dim={head_dim}"
    return Case(f"beam_attention,{shape},{short(dtype)}", dtype, make)


def all_cases(device: str, has_decode: bool) -> list[Case]:
    """The table of cases; the shapes of METHOD's heads and of SmolLM2."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        cases += [
            loss_case(64, 32, 256, 64, dtype, device),  # to try the benchmark itself
            loss_case(8192, 128, 2048, 2048, dtype, device),
            loss_case(8192, 128, 2048, 64, dtype, device),
            loss_case(8192, 576, 49152, 49152, dtype, device),
            loss_case(8192, 576, 49152, 256, dtype, device),
            *(softmax_case(kind, 8192, 2048, dtype, device) for kind in ("slice", "ranges")),
            attention_case(32, 20, 200, 64, dtype, device),
        ]
        if has_decode:
            cases += decode_cases(dtype, device)
    if has_decode:
        cases.append(topk_case(32, 20, 1_000_000, 256, device))
        cases.append(topk_case(8, 256, 1_000_000, 2048, device))
    return cases


def print_roofline(case: Case, work: Work) -> float:
    """Prints what an H100 could do at best; returns its milliseconds."""
    bound_ms = H100.milliseconds(work.num_bytes, work.flops, case.dtype)
    is_memory = bound_ms == H100.milliseconds(work.num_bytes, 0, case.dtype)
    bound = "memory" if is_memory else "compute"
    figures = f"{work.flops / 1e9:,.1f} GFLOP, {work.num_bytes / 2**20:,.1f} MiB"
    print(f"{case.name}: {figures}, at least {bound_ms:.4f} ms on an H100, bound by {bound}")
    return bound_ms


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


# ------------------------------------------------------------------------------------------ main


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--roofline", action="store_true", help="print the bounds and stop")


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


if __name__ == "__main__":
    main()
