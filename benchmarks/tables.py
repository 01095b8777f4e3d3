"""Writes the tables of README.md and of pages of docs/ from benchmarks/results/.

    python benchmarks/tables.py            # or `make tables`: the pages are written anew
    python benchmarks/tables.py --check    # exit status 1 if that would change them

A table stands between <!-- table:NAME --> and <!-- /table -->; the text around them stays as it is.
results/NAME is a table of benchmarks/results.py. In the others each line is one case, with the
figures of the last run of `ours`: rows of the same machine, commit and date, so that no ratio
compares two machines. A line whose case was not measured is left out, and a cell whose provider was
not says so.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kernel_table import kernels_table
from benchmarks.markdown import markdown
from benchmarks.results_table import PLANS, results_table
from benchmarks.roofline import roofline_table
from benchmarks.row_tables import baselines_table, cold_start_table, scoring_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/results.md", "docs/performance.md")
NOT_MEASURED = "not measured"

Row = dict[str, str]


@cache
def read(benchmark: str, folder: Path = RESULTS) -> list[Row]:
    """All rows of a benchmark, oldest first; none if it was never run."""
    path = folder / f"{benchmark}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Figures:
    """The medians of one metric of one case, by provider, all of one run."""

    by_provider: dict[str, float]

    @classmethod
    def find(cls, rows: Iterable[Row], case: str, metric: str) -> "Figures":
        """Those of the last run in which `ours` was measured."""
        wanted = [row for row in rows if (row["case"], row["metric"]) == (case, metric)]

        def run(row: Row) -> tuple[str, ...]:
            return tuple(row[name] for name in ("machine", "torch", "commit", "date", "threads"))

        last = next((run(row) for row in reversed(wanted) if row["provider"] == "ours"), None)
        return cls({row["provider"]: float(row["p50"]) for row in wanted if run(row) == last})

    def fastest(self, providers: tuple[str, ...]) -> float | None:
        """The least of some providers' durations; None if none was measured."""
        return min((self.by_provider[p] for p in providers if p in self.by_provider), default=None)

    def cell(self, *providers: str, unit: str = "", has_ratio: bool = True) -> str:
        """A duration, that of the fastest, and how many times that of `ours` it is."""
        duration = self.fastest(providers)
        if duration is None:
            return NOT_MEASURED
        cell = number(duration) + unit
        ratio = duration / self.by_provider["ours"]
        return f"{cell} ({times(ratio)})" if has_ratio and providers != ("ours",) else cell


def number(x: float) -> str:
    """Three significant digits, at most three behind the point: 0.092, 1.37, 10.4, 3,649."""
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def times(ratio: float) -> str:
    """8.7 x, 26 x."""
    return f"{ratio:.0f} x" if ratio >= 9.95 else f"{ratio:.1f} x"


def decode_table(folder: Path) -> str:
    """A whole search, end to end."""
    lines = []
    for model, shown in (
        ("256x4", "hidden 256, 4 layers"),
        ("smollm2", "SmolLM2-135M's shape"),
    ):
        for batch in (4, 16):
            case = f"model={model},dtype=bfloat16,batch={batch},beam=20,history=20"
            found = Figures.find(read("decode", folder), case, "latency_ms")
            if found.by_provider:
                ours = found.cell("ours", unit=" ms")
                floor = found.cell("floor", unit=" ms", has_ratio=False)
                peers = (found.cell(p, unit=" ms") for p in ("torch_fallback", "transformers"))
                lines.append([f"{shown}, {batch}", ours, floor, *peers])
    header = ["model, batch", "ours (C++)", "lower bound", "plain PyTorch beams", "transformers"]
    return markdown(header, lines)


def trie_table(folder: Path) -> str:
    """The beam step alone: a step, and a decode of four."""
    columns = [
        ("ours",),
        ("ours_two_threads",),
        ("unconstrained",),
        ("csr_torch", "csr_torch_one_topk"),
        ("transformers",),
    ]
    lines = []
    for metric, what in (("step_ms", "a step"), ("decode_ms", "a decode of four")):
        for codes, shown in (("uniform", "uniform codes"), ("zipf", "skewed codes")):
            case = f"n=1e6,codes={codes},batch=32,beam=20"
            found = Figures.find(read("trie", folder), case, metric)
            if found.by_provider:
                cells = [found.cell(*p, has_ratio=p != ("ours_two_threads",)) for p in columns]
                lines.append([f"{shown}, {what}", *cells])
    header = ["10^6 items", "ours", "two threads", "no constraint at all"]
    header += ["STATIC's method in PyTorch, the faster of two", "transformers' hook"]
    return markdown(header, lines)


def train_table(folder: Path) -> str:
    """Tokens per second and memory of training steps."""
    case, rows = "hidden=576,layers=6,beauty=4x64,bfloat16", read("train", folder)
    rates = Figures.find(rows, case, "tokens_per_s").by_provider
    peaks = Figures.find(rows, case, "extra_peak_mib").by_provider
    shown = {
        "transformers": "transformers, padded",
        "transformers_bucketed": "transformers, sorted into buckets",
        "ours": "ours",
    }
    lines = []
    for provider, name in shown.items():
        if provider in rates:
            ratios = [times(rates["ours"] / rates[peer]) for peer in shown if peer in rates][:-1]
            rate = number(rates[provider])
            rate += f" ({', '.join(ratios)})" if provider == "ours" else ""
            lines.append([name, rate, f"{peaks[provider] / 2**10:.1f} GiB"])
    return markdown(["", "tokens/s", "extra peak memory"], lines)


def startup_table(folder: Path) -> str:
    """What it costs to start."""
    lines = []
    names = {case: f"`{case}`" for case in ("import store_engine", "store-engine --help")}
    for case, name in (names | {"the first recommendation": "the first recommendation"}).items():
        found = Figures.find(read("startup", folder), case, "wall_ms")
        if found.by_provider:
            floor = found.cell("floor", unit=" ms", has_ratio=False)
            lines.append([name, found.cell("ours", unit=" ms"), floor])
    return markdown(["a process that runs", "takes", "torch and numpy alone"], lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "decode": decode_table,
    "trie": trie_table,
    "train": train_table,
    "startup": startup_table,
    "roofline": roofline_table,
    "kernels": kernels_table,
    "baselines": baselines_table,
    "cold_start": cold_start_table,
    "scoring": scoring_table,
    **{f"results/{path.stem}": partial(results_table, path.stem) for path in PLANS.glob("*.toml")},
}


def fill(text: str, folder: Path = RESULTS) -> str:
    """The text with every table between its markers.

    Raises:
        ValueError: A table is unknown, or has no end.
    """

    def table(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"no table {match['name']!r}, there are {', '.join(TABLES)}")
        return f"{match['begin']}\n{TABLES[match['name']](folder)}\n{match['end']}"

    begin, end = r"(?P<begin><!-- table:(?P<name>\S+) -->)", "(?P<end><!-- /table -->)"
    if len(re.findall(begin, text)) != len(re.findall(end, text)):
        raise ValueError("every <!-- table:NAME --> needs a <!-- /table -->, and no other does")
    return re.sub(f"{begin}.*?{end}", table, text, flags=re.DOTALL)


def main() -> int:
    """Writes the pages, or says whether they would change."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    pages = {ROOT / name: (ROOT / name).read_text() for name in PAGES}
    new = {page: fill(text) for page, text in pages.items()}
    if args.check:
        print("all is as it would be written" if new == pages else "run `make tables`")
        return int(new != pages)
    for page, text in new.items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
