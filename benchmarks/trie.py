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

Providers (trie_providers.py):
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
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.harness import Options, Quantiles, Report, parse_options
from benchmarks.trie_providers import (
    CsrTorch,
    DenseMask,
    MarisaHook,
    Ours,
    Provider,
    RandomFilter,
    TransformersHook,
    Unconstrained,
    live_snapshot,
)
from store_engine._C import ItemTrie, LiveTrie

Sids = NDArray[np.int32]
ATOL = 1e-4  # of a log-probability


@dataclass(frozen=True)
class Case:
    """One workload."""

    num_items: float
    codes: str
    beam: int = 20
    batch: int = 32
    num_levels: int = 4
    codebook_size: int = 256
    has_updates: bool = False

    @property
    def name(self) -> str:
        """As it stands in the CSV."""
        number = f"{self.num_items:.0e}".replace("e+0", "e")
        name = f"n={number},codes={self.codes},batch={self.batch},beam={self.beam}"
        if (self.num_levels, self.codebook_size) != (4, 256):
            name += f",levels={self.num_levels},codebook={self.codebook_size}"
        return name + (",updates" if self.has_updates else "")


CASES = [
    *(Case(n, codes) for n in (1e5, 1e6) for codes in ("uniform", "zipf")),
    Case(12101, "beauty"),
    Case(1e6, "uniform", has_updates=True),
]
CASES_ON_DEMAND = [
    *(
        Case(n, codes, beam)
        for n in (1e5, 1e6)
        for codes in ("uniform", "zipf")
        for beam in (50, 256)
    ),
    *(Case(1e7, codes, beam) for codes in ("uniform", "zipf") for beam in (20, 50, 256)),
    *(Case(12101, "beauty", beam) for beam in (50, 256)),
    Case(1e6, "uniform", 70, 2, 8, 2048),  # the shape of STATIC's paper
    Case(1e8, "uniform"),
]
QUICK_CASES = [Case(1e4, "zipf"), Case(1e4, "uniform", has_updates=True)]


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


def catalogue(case: Case, data: Path) -> tuple[Sids, list[int]]:
    """The SIDs of a case, in SID order, and their codebook sizes.

    Raises:
        FileNotFoundError: The published SIDs are not there.
    """
    size, shape = case.codebook_size, (int(case.num_items), case.num_levels)
    sizes = [size] * case.num_levels
    rng = np.random.default_rng(0)
    if case.codes == "beauty":
        path = data / "beauty" / "sids_letter.csv"
        sids = np.loadtxt(path, np.int32, delimiter=",", skiprows=1, usecols=range(1, 5))
    elif case.codes == "uniform":
        sids = rng.integers(0, size, shape, dtype=np.int32)
    else:  # drawn until enough of them differ
        weights = 1 / np.arange(1, size + 1) ** 1.1
        edges = np.cumsum(weights / weights.sum())
        sids = np.zeros((0, shape[1]), np.int32)
        while len(sids) < shape[0]:
            more = np.searchsorted(edges, rng.random(shape)).clip(0, size - 1).astype(np.int32)
            sids = in_order(np.concatenate([sids, more]), sizes)
            sids = sids[np.r_[True, (np.diff(sids, axis=0) != 0).any(1)]]
        sids = sids[np.sort(rng.choice(len(sids), shape[0], replace=False))]
    return in_order(sids, sizes), sizes


def in_order(sids: Sids, sizes: list[int]) -> Sids:
    """Rows in SID order."""
    trie = ItemTrie(np.ascontiguousarray(sids), sizes)
    return np.ascontiguousarray(sids[trie.leaf_rows(np.arange(trie.level_sizes[-1]))[1]])


class Logits:
    """What a model might say: a table per level, looked up by a beam's last code."""

    def __init__(self, batch: int, sizes: list[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self._first = 2 * torch.randn(batch, 1, sizes[0], generator=generator)
        self._tables = [
            2 * torch.randn(before, size, generator=generator) for before, size in pairwise(sizes)
        ]

    def __call__(self, level: int, tokens: Tensor) -> Tensor:
        """(batch, beam_width, codebook_size) for beams that end in `tokens`, -1 for none."""
        if level == 0:
            return self._first
        table = self._tables[level - 1]
        # each request reads other rows, so that their beams differ
        row = tokens.clamp(min=0) + 7 * torch.arange(len(tokens))[:, None]
        return table[row % len(table)]


@torch.inference_mode()
def decode(provider: Provider, logits: Logits, case: Case) -> tuple[Tensor, Tensor, list[float]]:
    """One decode: scores (batch, beam), SIDs (batch, beam, levels), and milliseconds per step."""
    provider.start(case.batch, case.beam)
    tokens = torch.zeros(case.batch, 1, dtype=torch.int64)
    sids = torch.zeros(case.batch, 1, 0, dtype=torch.int64)
    times = []
    for level in range(case.num_levels):
        of_beams = logits(level, tokens)
        begin = time.perf_counter()
        step = provider.step(level, of_beams)
        times.append(1e3 * (time.perf_counter() - begin))
        tokens = step.tokens
        parents = step.parents.clamp(min=0)[:, :, None].expand(-1, -1, level)
        sids = torch.cat([sids.gather(1, parents), tokens[:, :, None]], dim=2)
    return step.scores, sids, times


def mean_step(steps: list[float]) -> float:
    """Milliseconds per step of one decode, the first step left out."""
    return float(np.mean(steps[1:]))


def add_times(report: Report, case: Case, provider: str, metric: str, times: list[float]) -> float:
    """Adds a duration's median and its 99th percentile, and returns the latter."""
    p20, p50, p80, p99 = np.quantile(times, [0.2, 0.5, 0.8, 0.99]).tolist()
    report.add(provider, case.name, f"{metric}_ms", "ms", Quantiles(p20, p50, p80))
    report.add(provider, case.name, f"{metric}_p99_ms", "ms", p99)
    return p99


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


def check(case: Case, logits: Logits, providers: dict[str, Provider]) -> None:
    """Refuses to go on unless all providers find what ours does.

    Scores must be equal rank by rank to ATOL, and so must the SIDs, but where two neighbours are
    closer than that. Beams that do not exist have score -inf and are not compared.

    Raises:
        AssertionError: They do not.
    """
    scores, sids, _ = decode(providers["ours"], logits, case)
    is_clear = scores.isfinite()
    is_close = scores.diff(dim=1).abs() <= 2 * ATOL
    is_clear[:, 1:] &= ~is_close
    is_clear[:, :-1] &= ~is_close
    is_clear[:, -1] = False  # its other neighbour is not known
    for name, provider in providers.items():
        if name != "unconstrained":
            other_scores, other_sids, _ = decode(provider, logits, case)
            error = (other_scores - scores).abs().nan_to_num(0).max().item()
            assert error < ATOL, f"{case.name}: {name} differs from ours by {error:.2e}"
            is_same = (other_sids == sids).all(2) | ~is_clear
            assert is_same.all(), f"{case.name}: {name} finds other SIDs than ours"


def check_filtered(
    case: Case, logits: Logits, item_filter: RandomFilter, sids: Sids, sizes: list[int]
) -> None:
    """Refuses to go on unless the filter gives what tries of the items left give.

    Raises:
        AssertionError: It does not.
    """
    got = decode(Ours(item_filter.trie, 1, item_filter.make()), logits, case)
    for request in range(min(4, case.batch)):  # the others are alike
        left = np.ascontiguousarray(sids[item_filter.rows_left(request)])
        want = decode(Ours(ItemTrie(left, sizes), 1), logits, case)
        for a, b in zip(got[:2], want[:2], strict=True):
            assert a[request].equal(b[request]), (
                f"{case.name}: the filter changes request {request}"
            )


def time_updates(
    report: Report, options: Options, case: Case, sids: Sids, sizes: list[int]
) -> None:
    """Adds how long a change takes to be seen, and what a stream of changes costs a decode."""
    rng = np.random.default_rng(3)
    live = LiveTrie(sids, np.arange(len(sids)), sizes, num_threads=options.threads)
    logits = Logits(case.batch, sizes)
    is_done = threading.Event()
    next_id = len(sids)

    def add(count: int) -> float:
        """Adds items and removes half of them; returns the ms until the added ones are seen."""
        nonlocal next_id
        ids = np.arange(next_id, next_id + count)
        new = rng.integers(0, sizes, (count, len(sizes)), np.int32)
        begin = time.perf_counter()
        live.add(new, ids)
        live.snapshot()
        seen_ms = 1e3 * (time.perf_counter() - begin)
        live.remove(ids[::2].copy())
        next_id += count
        return seen_ms

    def change() -> None:
        while not is_done.wait(0.05):
            add(100)

    def decode_for(seconds: float) -> list[float]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            steps = decode(Ours(live.snapshot(), 1), logits, case)[2]
            times.append(mean_step(steps))
        return times

    add_times(report, case, "ours_live", "add_1000", [add(1000) for _ in range(100)])
    live.compact()
    seconds = 0.5 if options.quick else 10.0
    decode_for(seconds / 10)  # warm up
    still = add_times(report, case, "ours_live_still", "step", decode_for(seconds))
    writer = threading.Thread(target=change)
    writer.start()
    moving = add_times(report, case, "ours_live", "step", decode_for(seconds))
    is_done.set()
    writer.join()
    report.add("ours_live", case.name, "step_p99_ratio_vs_still", "x", moving / still)


if __name__ == "__main__":
    main()
