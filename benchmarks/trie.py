"""Beam steps inside a catalogue: the C++ core beside every other way to do it.

    python benchmarks/trie.py --threads 1                   # beam 20: 1e5, 1e6, Beauty, updates
    python benchmarks/trie.py --threads 1 --cases n=1e7     # any other of CASES, by its name
    python benchmarks/trie.py --threads 1 --cases beam=256

One step takes the logits of all beams to the next beams: log-softmax, constraint, top-k and where
the beams then stand. A case decodes a batch again and again; a repetition is one decode. decode_ms
is the sum of all its steps, step_ms the mean over the steps after the first. Logits are normal with
deviation 2 and depend on a beam's last code. Codes are `uniform`, all alike; `zipf`, each by Zipf's
law with exponent 1.1, so that some subtrees are crowded as in real catalogues; or `beauty`, the
SIDs that LETTER published for Amazon Beauty, if they are under --data.

Providers (constraining/):
    ours, ours_compact    ItemTrie in its two modes
    ours_two_threads      the first, but its requests shared among two threads
    ours_filtered         10 % of the items allowed, and 20 of these excluded per request
    ours_live             a snapshot of a LiveTrie with 1 % of changes not yet merged
    csr_torch             STATIC's method in PyTorch, as its authors publish it
    csr_torch_one_topk    the same, improved by us: the README compares with the faster of the two
    dense_mask            a mask over all codes, in PyTorch
    transformers          its prefix hook over a trie of dictionaries; up to 1e6 items, and where
                          the first level has as many codes as there are beams
    marisa                the same over marisa-trie; up to 1e5 items
    unconstrained         log-softmax and top-k over all codes

All must find the same beams, ours_filtered those of a trie of the items left; then they are timed
in turn, ten decodes at a time, so that each finds its own data in the caches. `updates` cases time
adding 1,000 items until they are seen; then they add 100 and remove 50 every 50 ms while another
thread decodes. ours_live_still is the same catalogue before that.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.constraining.cases import (
    CASES,
    CASES_ON_DEMAND,
    QUICK_CASES,
    Case,
    Sids,
    catalogue,
)
from benchmarks.constraining.check import check, check_filtered
from benchmarks.constraining.csr_tries import CsrTorch, DenseMask
from benchmarks.constraining.decode import Logits, decode, mean_step
from benchmarks.constraining.ours import Ours, RandomFilter, live_snapshot
from benchmarks.constraining.prefix_hooks import MarisaHook, TransformersHook
from benchmarks.constraining.provider import Provider, Unconstrained
from benchmarks.constraining.updates import ItemStream
from benchmarks.measuring.harness import Options, Quantiles, Report, parse_options
from store_engine._C import ItemTrie, LiveTrie


def main() -> None:
    """Checks and times every case."""
    options = parse_options("trie", __doc__, add_options, has_gpu=False)
    report = Report("trie", options)
    cases = CASES + (CASES_ON_DEMAND if options.cases.pattern else [])
    try:
        for case in QUICK_CASES if options.quick else cases:
            if options.wants(case.name):
                print(f"{case.name}: building", file=sys.stderr)
                try:
                    sids, sizes = catalogue(case, options.extra.data)
                except FileNotFoundError as error:
                    print(f"{case.name}: skipped, there is no {error.filename}", file=sys.stderr)
                    continue
                run = time_updates if case.has_updates else time_steps
                run(report, options, case, sids, sizes)
    finally:  # what was measured is not lost with a case that fails
        report.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark alone."""
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        metavar="DIR",
        help="has beauty/sids_letter.csv (item_id,code_0,...); ../shared/data",
    )


def time_steps(report: Report, options: Options, case: Case, sids: Sids, sizes: list[int]) -> None:
    """Adds build time, memory, and milliseconds per decode and step of every provider."""
    logits = Logits(case.batch, sizes)
    trie = ItemTrie(sids, sizes)
    providers = dict(build(report, options, case, sids, sizes))
    check(case, logits, providers)
    if len(sids) <= 1e7:
        item_filter = RandomFilter(trie, case.batch, share=0.1, num_excluded=20)
        providers["ours_filtered"] = Ours(trie, options.threads, item_filter.make())
        check_filtered(case, logits, item_filter, sids, sizes)
        making = [item_filter.time_ms() for _ in range(20)]
        add_times(report, case, "ours_filtered", "make_filter", making)

    print(f"{case.name}: timing", file=sys.stderr)
    budget_s = 0.2 if options.quick else 3.0
    times: dict[str, list[list[float]]] = {name: [] for name in providers}  # of each decode
    spent = dict.fromkeys(providers, 0.0)
    while min(spent.values()) < budget_s:
        for name, provider in providers.items():  # in turn; the slow ones drop out first
            if spent[name] < budget_s:
                begin = time.perf_counter()
                times[name] += [decode(provider, logits, case)[2] for _ in range(10)]
                spent[name] += time.perf_counter() - begin
    for name, decodes in times.items():
        add_times(report, case, name, "step", list(map(mean_step, decodes)))
        add_times(report, case, name, "decode", list(map(sum, decodes)))
    for name in providers:
        if name != "ours":
            report.add_ratio("ours", name, case.name, "step_ms")
            report.add_ratio("ours", name, case.name, "decode_ms", "decode_ratio")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report.add("all", case.name, "peak_memory", "GiB", peak_kib / 2**20)


def build(
    report: Report, options: Options, case: Case, sids: Sids, sizes: list[int]
) -> Iterator[tuple[str, Provider]]:
    """Yields the providers by name; adds their build time and memory."""
    threads = options.threads
    makers: dict[str, Callable[[], Provider]] = {
        "ours": lambda: Ours(ItemTrie(sids, sizes, num_threads=threads), threads),
        "ours_two_threads": lambda: Ours(ItemTrie(sids, sizes, num_threads=2), 2),
        "ours_compact": lambda: Ours(
            ItemTrie(sids, sizes, mode="compact", num_threads=threads), threads
        ),
    }
    if len(sids) <= 1e7:
        makers["ours_live"] = lambda: Ours(live_snapshot(sids, sizes, len(sids) // 100), threads)
        makers["csr_torch"] = lambda: CsrTorch(sids, sizes)
        makers["csr_torch_one_topk"] = lambda: CsrTorch(sids, sizes, has_one_topk=True)
        makers["dense_mask"] = lambda: DenseMask(sids, sizes)
    # the hook refuses a beam without a continuation, of which there are some at first then
    has_beams = len(np.unique(sids[:, 0])) >= case.beam
    if len(sids) <= 1e6 and has_beams:
        makers["transformers"] = lambda: TransformersHook(sids, sizes)
    if len(sids) <= 1e5 and has_beams:
        makers["marisa"] = lambda: MarisaHook(sids, sizes)
    for name, make in makers.items():
        begin = time.perf_counter()
        provider = make()
        report.add(name, case.name, "build_s", "s", time.perf_counter() - begin)
        report.add(name, case.name, "memory", "bytes/item", provider.nbytes / len(sids))
        yield name, provider
    yield "unconstrained", Unconstrained()


def add_times(report: Report, case: Case, provider: str, metric: str, times: list[float]) -> float:
    """Adds a duration's median and its 99th percentile, and returns the latter."""
    report.add(provider, case.name, f"{metric}_ms", "ms", Quantiles.of(times))
    p99 = float(np.quantile(times, 0.99))
    report.add(provider, case.name, f"{metric}_p99_ms", "ms", p99)
    return p99


def time_updates(
    report: Report, options: Options, case: Case, sids: Sids, sizes: list[int]
) -> None:
    """Adds how long a change takes to be seen, and what a stream of changes costs a decode."""
    live = LiveTrie(sids, np.arange(len(sids)), sizes, num_threads=options.threads)
    logits, stream = Logits(case.batch, sizes), ItemStream(live, sizes)

    def decode_for(seconds: float) -> list[float]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            times.append(mean_step(decode(Ours(live.snapshot(), 1), logits, case)[2]))
        return times

    add_times(report, case, "ours_live", "add_1000", [stream.add(1000) for _ in range(100)])
    live.compact()
    seconds = 0.5 if options.quick else 10.0
    decode_for(seconds / 10)  # warm up
    still = add_times(report, case, "ours_live_still", "step", decode_for(seconds))
    with stream.flowing(100, 0.05):
        times = decode_for(seconds)
    moving = add_times(report, case, "ours_live", "step", times)
    report.add("ours_live", case.name, "step_p99_ratio_vs_still", "x", moving / still)


if __name__ == "__main__":
    main()
