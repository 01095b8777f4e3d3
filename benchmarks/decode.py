"""End-to-end recommendation: histories in, ranked items out, on the same weights for everyone.

    python benchmarks/decode.py                            # hidden 256, 4 layers, float32
    python benchmarks/decode.py --quick                    # the same, few repetitions
    python benchmarks/decode.py --cases model=smollm2      # SmolLM2-135M's shape, bfloat16
    python benchmarks/decode.py --cases levels=8           # a sparse catalogue, forced suffixes
    python benchmarks/decode.py --cases decoder=heads      # no pass of the model per beam
    python benchmarks/decode.py --cases .                  # every case
    python benchmarks/decode.py --run runs/ml100k          # a trained run

Providers:
    ours            the engine: prefill once, beams share the context; with the backend that "auto"
                    chooses: on a CPU the C++ beam step
    ours_cpp, ours_torch, ours_triton, ours_graph
                    the same engine with another backend, where that runs on the device
    torch_fallback  plain PyTorch: each beam has its own copy of the cache, reordered at each level
                    (store_engine/evaluation/plain_beam.py)
    transformers    the exported Llama in `generate`, constrained by transformers' prefix hook over
                    a trie of Python dicts (peers/transformers_beam.py), if it is installed
    vllm            the exported folder in vLLM's beam search, held to the catalogue by our logits
                    processor (peers/vllm_beam.py), if it is installed: `make vllm` makes an
                    environment that has it. Its prefix cache is empty when a search begins
    flashrec        FlashRec, where it is installed, on a GPU: model=qwen3 and a beam that is half a
                    codebook wide; its scores are compared but for a number of each request
                    (peers/flashrec_beam.py)
    floor           the lower bound of a search by levels: the forward passes of `ours` alone,
                    prefill, then each level's beams, with the level's head; no trie, no search.
                    decoder=heads: prefill and the heads. Its h100_roofline_ms is by formula:
                    weights and contexts read once per pass, or the products; share_of_roofline of
                    the others is that of the GPU that ran them, by its data sheet
    ours_exact      every item of the catalogue scored, at batch 1; for heads of plain codes, all
                    items ranked in one scan
    ours_top10, ours_top10_evidence
                    with --run, where the run has item-item evidence: 10 items of the LLM alone, and
                    of both; all other providers leave the evidence out

All searches must return the same items with the same log-probabilities in float32; only then is
anything timed. In bfloat16 they must stay near the float32 result. The engine's prefix cache is
off: every repetition computes all of every history. (prefix_reuse.py has it on.)

decoder=heads is the same catalogue and the same transformer with a head of 128 units per level on
the last state. form=items is what configs/presets/ours.toml trains: one position per item, 128
clusters, then the item itself; its histories are as many items, a quarter of the tokens.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoding.cases import DEFAULT_CASES, MORE_CASES, Case
from benchmarks.decoding.check import NUM_CHECKED, check
from benchmarks.decoding.engines import random_histories
from benchmarks.decoding.lower_bound import make_lower_bound
from benchmarks.decoding.runs import add_options, make_engine, wanted_cases
from benchmarks.decoding.search_bound import Load, search_bound_ms
from benchmarks.decoding.searches import make_searches
from benchmarks.measuring.data_sheet import H100, data_sheet
from benchmarks.measuring.harness import Options, Report, measure_together, parse_options
from benchmarks.peers.searches import Search
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import history_tokens

TOP = 10  # items wanted where evidence is added


def main() -> None:
    """Checks and times every case."""
    options = parse_options("decode", __doc__, add_options)
    report = Report("decode", options)
    table = DEFAULT_CASES + MORE_CASES if options.cases.pattern else DEFAULT_CASES
    for same, cases in groupby(
        wanted_cases(options, table), lambda c: replace(c, batch=0, history=(0, 0))
    ):
        engine = exact = make_engine(options, same, "float32")
        if same.dtype != "float32":
            engine = make_engine(options, same, same.dtype)
        searches = make_searches(engine, same.beam)
        truth = searches
        if engine is not exact:
            truth = make_searches(exact, same.beam, is_timed=False)
        for case in cases:
            print(f"{case.name}: checking, then timing", file=sys.stderr)
            histories = random_histories(engine, case)
            check(case, histories[:NUM_CHECKED], truth, searches)
            time_case(report, options, case, histories, engine, searches)
    report.finish()


def time_case(
    report: Report,
    options: Options,
    case: Case,
    histories: list[list[int]],
    engine: Engine,
    searches: dict[str, Search],
) -> None:
    """Adds latency, requests per second and the ratios of one case."""
    runs: dict[str, Callable[[], object]] = {
        name: partial(search, histories, case.beam) for name, search in searches.items()
    }
    if case.normalize == "codebook":  # otherwise the number of passes depends on the items found
        runs["floor"] = make_lower_bound(engine, histories, case.beam)
    if case.batch == 1 or case.form == "heads":  # heads: all items ranked in one scan
        runs["ours_exact"] = partial(
            engine.recommend_rows,
            histories,
            case.beam,
            exclude_history=False,
            exact=True,
            evidence=False,
        )
    if engine.has_evidence:  # of a run
        for name, evidence in (("ours_top10", False), ("ours_top10_evidence", True)):
            runs[name] = partial(
                engine.recommend_rows, histories, TOP, beam_width=case.beam, evidence=evidence
            )
    sheet = data_sheet(options.device)
    num_tokens = 1 + history_tokens(engine).shape[1] * sum(case.history) / 2
    load = Load(case.batch, case.beam, num_tokens)
    for name, latency in measure_together(runs, options).items():
        report.add(name, case.name, "latency_ms", "ms", latency, case.dtype)
        rate = 1e3 * case.batch / latency.p50
        report.add(name, case.name, "requests_per_s", "1/s", rate, case.dtype)
        if sheet is not None:
            share = search_bound_ms(engine, load, sheet) / latency.p50
            report.add(name, case.name, "share_of_roofline", "", share, case.dtype)
    bound = search_bound_ms(engine, load, H100)
    report.add("floor", case.name, "h100_roofline_ms", "ms", bound, case.dtype)
    for name in runs:
        if name != "ours":
            report.add_ratio("ours", name, case.name, "latency_ms")
    if "ours_top10_evidence" in runs:
        report.add_ratio("ours_top10", "ours_top10_evidence", case.name, "latency_ms")


if __name__ == "__main__":
    main()
