"""Writes a run's report: one HTML page with curves, results, codes, a map of items and examples.

store-engine report runs/ml100k                        # runs/ml100k/report.html
store-engine report runs/ml100k --out page.html
store-engine report runs/a --compare runs/b runs/c     # other seeds, other settings

The page needs no network and can be sent to somebody. A run that still trains has its curves. Runs
with the same settings but another seed are shown as mean and standard deviation, others beside
them; so is a run that went on with newer events, and was measured on other users. --no-model leaves
out what the trained model is loaded for: map, examples, latency.
"""

import argparse
from pathlib import Path

from store_engine.cli.main import (
    add_device_argument,
    add_run_argument,
    claim_output,
    run_verb,
)
from store_engine.runs.run_paths import RunPaths
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("report", __doc__, _add_arguments, _report, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--out", type=Path, help="the page (default RUN/report.html)")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN2",
        help="runs on the same data set, to show beside this one",
    )
    parser.add_argument("--no-model", action="store_true", help="show what needs no model")
    add_device_argument(parser)


def _report(args: argparse.Namespace) -> None:
    if args.out is not None:
        claim_output(args.out)
    out = args.out or RunPaths(args.run).report
    # here, because it takes seconds that --help need not wait for
    from store_engine.report.page import write_report

    write_report(args.run, out, args.compare, device=args.device, uses_model=not args.no_model)
    print(printable(out))
