"""Measures a trained run again: item-level metrics over the whole catalogue.

store-engine evaluate --run runs/ml100k
store-engine evaluate --run runs/ml100k --exact      # every item scored, no beam
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from store_engine.errors import InputError
from store_engine.evaluation.evaluate_run import evaluate_run, print_metrics, save_metrics
from store_engine.runs.run_directory import RunDirectory


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a finished run")
    parser.add_argument("--exact", action="store_true", help="score every item instead of a beam")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", action="store_true", help="replace the run's metrics.json")
    args = parser.parse_args(argv)
    try:
        metrics = evaluate_run(args.run, exact=args.exact)
        if args.save:
            with RunDirectory.open_to_write(args.run) as run, run.writing(run.metrics):
                save_metrics(metrics, run.metrics)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(metrics, indent=1))
    else:
        print_metrics(metrics, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
