"""What a search asks of the device: kernels, copies and waits, and the share of time it works.

    python benchmarks/search_profile.py --device cuda                      # decode.py's small model
    python benchmarks/search_profile.py --device cuda --cases model=smollm2
    python benchmarks/search_profile.py --quick                            # a CPU: operations only

The cases, models and backends are those of decode.py, which checks that they agree. One search is
profiled, after two that warm up.

    kernels         launched by one search, copies and fills included
    copies          host to device and back, of these
    waits           calls in which the host waits for the device
    busy_share      time in which the device runs a kernel, of the time of the search
    operations      PyTorch's own; all there is to see on a CPU
"""

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

# run as a script, only benchmarks/ is on the path, whose kernels.py must not hide a package's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.decoding.cases import DEFAULT_CASES, MORE_CASES
from benchmarks.decoding.engines import random_histories
from benchmarks.decoding.runs import add_options, make_engine, wanted_cases
from benchmarks.decoding.searches import other_backends, recommend
from benchmarks.measuring.harness import Report, parse_options
from benchmarks.peers.searches import Search

WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


class Span(NamedTuple):
    """One event of a profile."""

    name: str
    is_on_device: bool
    begin_us: float
    end_us: float


def busy_us(spans: list[Span]) -> float:
    """Microseconds in which at least one of the spans goes on."""
    total, end = 0.0, 0.0
    for span in sorted(spans, key=lambda span: span.begin_us):
        total += max(span.end_us - max(span.begin_us, end), 0.0)
        end = max(end, span.end_us)
    return total


def summarise(spans: list[Span]) -> dict[str, tuple[float, str]]:
    """Each metric's figure and unit."""
    operations = sum(span.name.startswith("aten::") for span in spans)
    found = {"operations": (float(operations), "1")}
    kernels = [span for span in spans if span.is_on_device]
    if kernels:
        begin, end = min(span.begin_us for span in spans), max(span.end_us for span in spans)
        copies = sum(span.name.startswith("Memcpy") and "DtoD" not in span.name for span in kernels)
        found["kernels"] = float(len(kernels)), "1"
        found["copies"] = float(copies), "1"
        found["waits"] = float(sum(span.name in WAITS for span in spans)), "1"
        found["busy_share"] = busy_us(kernels) / (end - begin), ""
    return found


def profile_search(search: Search, histories: list[list[int]], beam: int) -> list[Span]:
    """The events of one search."""
    for _ in range(2):
        search(histories, beam)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        search(histories, beam)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return [
        Span(e.name, e.device_type == DeviceType.CUDA, e.time_range.start, e.time_range.end)
        for e in seen.events()
    ]


def main() -> None:
    """Profiles every case that --cases selects; by default the small ones of batch 4."""
    options = parse_options("search_profile", __doc__, add_options)
    table = DEFAULT_CASES + MORE_CASES if options.cases.pattern else DEFAULT_CASES[::2]
    report = Report("search_profile", options)
    for case in wanted_cases(options, table):
        engine = make_engine(options, case, case.dtype)
        histories = random_histories(engine, case)
        searches: dict[str, Search] = {"ours": partial(recommend, engine, "auto")}
        for backend in other_backends(engine.device):
            searches[f"ours_{backend}"] = partial(recommend, engine, backend)
        for name, search in searches.items():
            for metric, figure in summarise(profile_search(search, histories, case.beam)).items():
                report.add(name, case.name, metric, figure[1], figure[0], case.dtype)
    report.finish()


if __name__ == "__main__":
    main()
