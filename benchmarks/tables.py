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
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import RESULTS, ROOT
from benchmarks.roofline import roofline_table
from benchmarks.tabulating.kernels_table import kernels_table
from benchmarks.tabulating.quality_tables import baselines_table, cold_start_table, scoring_table
from benchmarks.tabulating.results_table import PLANS, results_table
from benchmarks.tabulating.speed_tables import decode_table, startup_table, train_table, trie_table

PAGES = ("README.md", "docs/results.md", "docs/performance.md")

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
