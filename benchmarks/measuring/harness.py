"""What every benchmark shares: its options, the timing, the table and the CSV rows.

A benchmark is a table of cases; each case runs every provider on the same inputs, checks that they
agree, and only then times them:

    options = parse_options("decode", __doc__)
    report = Report("decode", options)
    for case in CASES:
        if options.wants(case):
            ...
            report.add("ours", case, "latency_ms", "ms", measure(run, options))
            report.add_ratio("ours", "transformers", case, "latency_ms")
    report.finish()
"""

import argparse
import csv
import datetime
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import PRETENDED, RESULTS
from benchmarks.measuring.gpu_clock import device_milliseconds
from store_engine.evaluation.latency import time_in_turn
from store_engine.experiments.provenance import commit, machine

# fmt: off
COLUMNS = [
    "benchmark", "provider", "case", "metric", "unit", "p20", "p50", "p80",
    "threads", "dtype", "machine", "torch", "commit", "date",
]
# fmt: on


class Quantiles(NamedTuple):
    """The 20th, 50th and 80th percentile of the repetitions of one figure."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quantiles":
        """Those of the repetitions."""
        return cls(*np.quantile(values, (0.2, 0.5, 0.8)).tolist())


@dataclass(frozen=True)
class Options:
    """The command line of a benchmark."""

    cases: re.Pattern[str]
    threads: int
    out: Path
    quick: bool
    device: str
    extra: argparse.Namespace  # the benchmark's own options

    def wants(self, case: str) -> bool:
        """True if `--cases` selects the case of this name."""
        return self.cases.search(case) is not None


@dataclass
class Report:
    """Collects figures, one CSV row each; shows them and appends them to the file at the end."""

    benchmark: str
    options: Options
    rows: list[dict[str, str | float]] = field(default_factory=list)

    def add(
        self,
        provider: str,
        case: str,
        metric: str,
        unit: str,
        figure: Quantiles | float,
        dtype: str = "float32",
    ) -> None:
        """Adds one figure; a single number stands for all three percentiles."""
        values = figure if isinstance(figure, Quantiles) else Quantiles(figure, figure, figure)
        row: dict[str, str | float] = {"benchmark": self.benchmark, "provider": provider}
        row |= {"case": case, "metric": metric, "unit": unit}
        row |= {name: float(value) for name, value in values._asdict().items()}
        self.rows.append(row | {"threads": self.options.threads, "dtype": dtype})

    def add_ratio(
        self, provider: str, other: str, case: str, metric: str, name: str = "ratio"
    ) -> float:
        """Adds how many times faster `provider` is than `other`, from the medians of a duration.

        Args:
            provider: Whose row the ratio becomes.
            other: The provider that it is compared with.
            case: The workload of both.
            metric: The duration.
            name: The row's metric is `<name>_vs_<other>`.

        Returns:
            The ratio: above 1 when `provider` is the faster.

        Raises:
            KeyError: One of the two has no figure of that name for this case.
        """
        ours, theirs = self._find(provider, case, metric), self._find(other, case, metric)
        ratio = float(theirs["p50"]) / float(ours["p50"])
        self.add(provider, case, f"{name}_vs_{other}", "x", ratio, str(ours["dtype"]))
        return ratio

    def _find(self, provider: str, case: str, metric: str) -> dict[str, str | float]:
        for row in self.rows:
            if (row["provider"], row["case"], row["metric"]) == (provider, case, metric):
                return row
        raise KeyError(f"no {metric} of {provider} for case {case}")

    def finish(self) -> None:
        """Prints the table and appends the rows to the CSV file (its header once)."""
        if not self.rows:
            print(f"{self.benchmark}: no case matches --cases {self.options.cases.pattern}")
            return
        where = {"machine": machine(self.options.device), "torch": str(torch.__version__)}
        stamp = {"commit": commit(), "date": datetime.date.today().isoformat()}
        print(f"{self.benchmark} on {where['machine']}, commit {stamp['commit']}")
        shown = (
            [row["case"], row["provider"], row["metric"]]
            + [f"{row[name]:,.3f}" for name in Quantiles._fields]
            + [row["unit"]]
            for row in self.rows
        )
        print_table(("case", "provider", "metric", "p20", "p50", "p80", "unit"), shown)
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.options.out.exists()
        with self.options.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerows(row | where | stamp for row in self.rows)


def print_table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Prints columns as wide as what stands in them; numbers to the right."""
    cells = [[str(x) for x in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (
            x.rjust(width) if x[:1].isdigit() or x[:1] == "-" else x.ljust(width)
            for x, width in zip(row, widths, strict=True)
        )
        print("  ".join(padded).rstrip())


def parse_options(
    benchmark: str,
    doc: str | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    has_gpu: bool = True,
) -> Options:
    """Reads the command line that every benchmark understands, and sets the number of threads.

    Args:
        benchmark: Its name, which is also that of its CSV file.
        doc: The benchmark's docstring, shown by --help.
        add: Adds the benchmark's own options to the parser.
        has_gpu: Whether there is anything that it can time on a GPU.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_out = RESULTS / f"{benchmark}.csv"
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--cases", default="", metavar="REGEX", help="run matching cases only")
    parser.add_argument("--threads", type=int, default=cores, help="CPU threads (all)")
    parser.add_argument("--out", type=Path, default=default_out, metavar="FILE.csv")
    parser.add_argument("--quick", action="store_true", help="few repetitions, small cases")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one; cpu")
    if add is not None:
        add(parser)
    args = parser.parse_args()
    try:
        cases = re.compile(args.cases)
    except re.error as error:
        parser.error(f"--cases {args.cases}: {error}")
    if args.threads < 1:
        parser.error(f"--threads must be at least 1, got {args.threads}")
    is_tried = args.device == PRETENDED and hasattr(torch, PRETENDED)
    if args.device != "cpu" and not is_tried:
        if not args.device.startswith("cuda"):
            parser.error(f"--device must be cpu or cuda, got {args.device}")
        if not has_gpu:
            parser.error(f"--device must be cpu: {benchmark} times what runs on a CPU alone")
        if not torch.cuda.is_available():
            parser.error(
                f"--device {args.device}: PyTorch {torch.__version__} finds no CUDA device"
            )
        torch.cuda.set_device(args.device)
    torch.set_num_threads(args.threads)
    return Options(cases, args.threads, args.out, args.quick, args.device, extra=args)


def measure(
    run: Callable[[], object], options: Options, min_repeats: int = 5, budget_s: float = 10.0
) -> Quantiles:
    """Times one op: on CUDA by the device's own clock, elsewhere as `measure_together` does."""
    if not options.device.startswith("cuda"):
        return measure_together({"": run}, options, min_repeats, budget_s)[""]
    if options.quick:
        min_repeats, budget_s = 3, budget_s / 10
    return Quantiles.of(device_milliseconds(run, budget_s, min_repeats))


def measure_together(
    runs: Mapping[str, Callable[[], object]],
    options: Options,
    min_repeats: int = 5,
    budget_s: float = 10.0,
) -> dict[str, Quantiles]:
    """Times several ways to do the same by the wall clock, in turn, after one warm-up of each.

    For work as long as a search: what its caller waits for, the host's part included. In turn, so
    that a machine that slows down for a while does so for all, and ratios stay true. A
    slow run leaves the rounds when its time is spent; the others go on.

    Args:
        runs: What is timed, by name.
        options: `quick` allows 3 repetitions and a tenth of the budget; a CUDA device is
            synchronised around each repetition.
        min_repeats: Repetitions of each run, whatever they take.
        budget_s: Seconds of its own after which a run is not repeated again.

    Returns:
        Milliseconds, by name.
    """
    if options.quick:
        min_repeats, budget_s = 3, budget_s / 10
    durations = time_in_turn(runs, options.device, min_repeats, budget_s)
    return {name: Quantiles.of(values) for name, values in durations.items()}
