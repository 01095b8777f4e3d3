"""Training steps on real histories: ours beside transformers, same architecture, engine and dtype.

    python benchmarks/train.py --data FOLDER                 # FOLDER: Beauty's items and events
    python benchmarks/train.py --cases hidden=256 --quick    # histories as long as Beauty's, drawn
    python benchmarks/train.py --cases hidden=576,.*bfloat16 --threads 2 --passes 3
    python benchmarks/train.py --device cuda:1 --histories 512

Providers, each in a process of its own:
    ours                   packed histories, losses over each code's own level
    transformers           LlamaForCausalLM; histories padded to the longest of the batch, the loss
                           over the joint vocabulary of 49,152 text tokens and 4 x 256 codes
    transformers_bucketed  the same on sorted histories, so that a batch holds similar lengths

All learn the codes of the same histories, in as many steps, with the same DeepSpeed engine, AdamW
and threads; a step is everything from codes to updated weights. Checked before any timing: given
the same weights, histories and joint vocabulary, our loss equals LlamaForCausalLM's. Where
DeepSpeed is not installed all train in plain PyTorch, and the case's name says so; where
transformers is not, ours is alone and unchecked.

    tokens_per_s     real tokens, never padding
    extra_peak_mib   the peak memory, of the process or on the GPU, above weights, optimiser and its
                     gradients, which were there before: activations, logits, temporaries
    share_of_peak    useful FLOPs over the most that the device can do in bf16: of a known GPU its
                     data sheet's (MFU), else those of the largest products of the same process;
                     both as training itself logs them (store_engine/training/throughput.py)
"""

import argparse
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring.harness import Options, Quantiles, Report, parse_options
from benchmarks.training.measure import measure
from benchmarks.training.task import HAS_TRANSFORMERS, MODELS, PEERS, Task


def run_case(task: Task, report: Report) -> None:
    """Measures every provider of a case, each in a fresh process."""
    case, medians, peaks = task.case, {}, {}
    peers = () if task.is_alone else PEERS
    for provider in (*peers, "ours"):
        print(f"{case}: {provider}", file=sys.stderr)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            got = pool.apply(measure, (replace(task, provider=provider),))
        rate = Quantiles.of([got.num_tokens / seconds for seconds in got.durations])
        medians[provider], peaks[provider] = rate.p50, got.extra_peak_mib
        report.add(provider, case, "tokens_per_s", "1/s", rate, task.dtype)
        report.add(provider, case, "extra_peak_mib", "MiB", got.extra_peak_mib, task.dtype)
        if provider == "ours":
            share = rate.p50 / got.num_tokens * got.flops / got.peak_flops
            report.add("floor", case, "bf16_gflops", "GFLOP/s", got.peak_flops / 1e9, task.dtype)
            report.add(provider, case, "share_of_peak", "", share, task.dtype)
        else:
            real = got.num_tokens / got.num_positions
            report.add(provider, case, "share_of_real_tokens", "", real, task.dtype)
    for other in peers:
        ratio, memory = medians["ours"] / medians[other], peaks["ours"] / peaks[other]
        report.add("ours", case, f"ratio_vs_{other}", "x", ratio, task.dtype)
        report.add("ours", case, f"memory_vs_{other}", "x", memory, task.dtype)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only this benchmark has."""
    parser.add_argument("--data", default="", metavar="FOLDER", help="Beauty's, else drawn ones")
    parser.add_argument("--steps", type=int, default=4, help="per pass")
    parser.add_argument("--histories", type=int, default=64, help="per step")
    parser.add_argument("--passes", type=int, default=2, help="over all histories, timed")
    parser.add_argument("--alone", action="store_true", help="time ours alone, unchecked")


def main() -> None:
    """Runs what the command line asks for."""
    options: Options = parse_options("train", __doc__, add_options)
    extra = options.extra
    sizes: tuple[int, int, int] = (extra.steps, extra.histories, extra.passes)
    if options.quick:
        sizes = (2, 8, 1)
    is_alone = extra.alone or not HAS_TRANSFORMERS
    rest = (options.threads, *sizes, options.device, is_alone)
    report = Report("train", options)
    for model in MODELS:
        # not worth the time, unless it is asked for
        is_left_out = "layers=30" in model if options.quick else "hidden=64" in model
        for dtype in ("bfloat16", "float32"):
            task = Task("", model, dtype, extra.data, *rest)
            if options.wants(task.case) and not (is_left_out and not options.cases.pattern):
                run_case(task, report)
    report.finish()


if __name__ == "__main__":
    main()
