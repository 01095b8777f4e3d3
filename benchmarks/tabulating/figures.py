"""Figures from the CSV rows of benchmarks: those of one case in one run, so that they compare."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.tabulating.markdown import number, times

NOT_MEASURED = "not measured"

Row = dict[str, str]


@cache
def read(benchmark: str, folder: Path) -> list[Row]:
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
