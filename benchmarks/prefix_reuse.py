"""A user's next request, whose history has grown by one item: what the prefix cache spares.

    python benchmarks/prefix_reuse.py                        # every case
    python benchmarks/prefix_reuse.py --cases model=256x4    # hidden 256, 4 layers
    python benchmarks/prefix_reuse.py --quick                # few repetitions
    python benchmarks/prefix_reuse.py --run runs/ml100k      # a trained run

Providers:
    ours            the engine, whose prefix cache has seen each history but for its last item
    ours_no_cache   the same engine without one: every history is computed whole

Each repetition is a request with last items that were not asked for before, so all of them begin
from the same state: of each history, all but the last item is known. Both must return the same
items with the same log-probabilities as plain PyTorch (see decode.py) before anything is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decoding.cases import Case
from benchmarks.decoding.check import NUM_CHECKED, check
from benchmarks.decoding.engines import BOS, random_histories
from benchmarks.decoding.runs import add_options, make_engine, wanted_cases
from benchmarks.decoding.searches import recommend
from benchmarks.measuring.harness import Options, Report, measure_together, parse_options
from benchmarks.peers.searches import Search
from store_engine.config import DecodingConfig
from store_engine.decoding.engine import Engine
from store_engine.evaluation.plain_beam import PlainBeamSearch, Result

Request = list[list[int]]  # a batch of histories, in catalogue rows
NUM_REQUESTS = 1002  # one to check, one to warm up, and the most that measure_together repeats


@dataclass(frozen=True)
class NextCase(Case):
    """One workload."""

    @property
    def name(self) -> str:
        """As it stands in the CSV."""
        return f"{super().name},request=next"


CASES: list[Case] = [
    NextCase("256x4", "bfloat16", 16),
    NextCase("256x4", "bfloat16", 16, history=(50, 50)),
    NextCase("smollm2", "bfloat16", 16),
]


def main() -> None:
    """Checks and times every case."""
    options = parse_options("prefix_reuse", __doc__, add_options)
    report = Report("prefix_reuse", options)
    for case in wanted_cases(options, CASES):
        exact = make_engine(options, case, "float32")
        engine = make_engine(options, case, case.dtype)
        if max(case.history) > engine.max_history:  # cut, it would begin anew at each request
            print(f"{case.name}: the run keeps {engine.max_history} items only", file=sys.stderr)
            continue
        print(f"{case.name}: checking, then timing", file=sys.stderr)
        seen = [history[:-1] for history in random_histories(engine, case)]
        first, *others = next_requests(engine, seen)
        truth, searches = (make_searches(e, seen, case.beam) for e in (exact, engine))
        check(case, first[:NUM_CHECKED], truth, searches)
        time_case(report, options, case, others, searches)
    report.finish()


def make_searches(engine: Engine, seen: Request, beam: int) -> dict[str, Search]:
    """Those that are timed, `ours` after a first request, and plain PyTorch, which checks them."""
    config = replace(engine.config, prefix_cache_mib=DecodingConfig().prefix_cache_mib)
    cached = Engine(
        engine.model,
        engine.catalog,
        engine.sids,
        bos=BOS,
        max_history=engine.max_history,
        config=config,
    )
    recommend(cached, "auto", seen, beam)
    return {
        "ours": partial(recommend, cached, "auto"),
        "ours_no_cache": partial(recommend, engine, "auto"),
        "torch_fallback": PlainBeamSearch(engine, BOS),
    }


def next_requests(engine: Engine, seen: Request) -> list[Request]:
    """Requests whose histories are those seen and one more item, in each request another.

    When the prefix cache is full, it drops what earlier requests of these added: their last items
    were used once, those seen are used by each.
    """
    last_items = np.random.default_rng(2).permutation(engine.catalog.num_items)[:NUM_REQUESTS]
    return [[[*history, item] for history in seen] for item in last_items.tolist()]


def time_case(
    report: Report,
    options: Options,
    case: Case,
    requests: list[Request],
    searches: dict[str, Search],
) -> None:
    """Adds the latencies of one case, and their ratio."""
    runs = {
        name: in_turn(searches[name], requests, case.beam) for name in ("ours", "ours_no_cache")
    }
    for name, latency in measure_together(runs, options).items():
        report.add(name, case.name, "latency_ms", "ms", latency, case.dtype)
    report.add_ratio("ours", "ours_no_cache", case.name, "latency_ms")


def in_turn(search: Search, requests: list[Request], beam: int) -> Callable[[], Result]:
    """A function whose every call answers the next request."""
    left = iter(requests)
    return lambda: search(next(left), beam)


if __name__ == "__main__":
    main()
