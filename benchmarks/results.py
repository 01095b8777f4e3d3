"""Makes a table of results again: trains what is missing, prints Markdown.

    python benchmarks/results.py --table beauty --data data/beauty
    python benchmarks/results.py --table beauty --data data/beauty --variants ours --seeds 0
    python benchmarks/results.py --table beauty --print      # from the rows that are there

A table is a plan, configs/sweeps/NAME.toml, whose rows are kept in benchmarks/results/NAME.jsonl;
`store-engine sweep` runs it. A training whose row is there with the settings of today is not run
again. Every training is a line of benchmarks/results/experiments.csv too, also one that failed.
`make tables` writes the tables into README.md and docs/results.md.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import RESULTS, ROOT
from benchmarks.tabulating.results_table import PLANS, results_table
from store_engine.cli.main import VerbParser, guard
from store_engine.cli.sweep import add_training_arguments
from store_engine.errors import InputError
from store_engine.experiments.plan import Plan, read_plan
from store_engine.experiments.rows import belongs_to, is_finished, read_rows
from store_engine.experiments.sweep import Sweep, run_sweep, select


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = VerbParser("results", __doc__ or "")
    parser.prog = "python benchmarks/results.py"
    names = sorted(path.stem for path in PLANS.glob("*.toml"))
    parser.add_argument("--table", required=True, choices=names, help="the table")
    add_training_arguments(parser)
    parser.add_argument("--rows", type=Path, default=RESULTS, metavar="DIR", help="where rows are")
    parser.add_argument("--note", default="", help="what the lines of experiments.csv say")
    parser.add_argument("--print", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    return guard(lambda: _make(args))


def _make(args: argparse.Namespace) -> int:
    folder: Path = args.rows.resolve()
    rows = folder / f"{args.table}.jsonl"
    if args.print:
        print(results_table(args.table, folder))
        return 0
    data = None if args.data is None else str(Path(args.data).resolve())
    os.chdir(ROOT)  # plans name files of the checkout
    plan = read_plan(PLANS / f"{args.table}.toml")
    trials = select(plan, args.variants, args.seeds)
    sweep = Sweep(plan.folder, rows, folder / "experiments.csv", args.note, args.retry)
    done = run_sweep(trials, sweep, num_ranks=args.num_accelerators, data=data)
    _say_what_is_missing(plan, rows)
    print(results_table(args.table, folder))
    failed = [row for row in done if not is_finished(row)]
    if failed:
        raise InputError(f"{len(failed)} training(s) failed, the last: {failed[-1]['error']}")
    return 0


def _say_what_is_missing(plan: Plan, path: Path) -> None:
    """Says which rows the table lacks, or has with settings of another day."""
    rows = read_rows(path)
    names = {variant.name for variant in plan.variants}
    old = [
        row
        for row in rows
        if row["variant"] in names and not any(belongs_to(row, trial) for trial in plan.trials)
    ]
    missing = [t for t in plan.trials if not any(belongs_to(row, t) for row in rows)]
    if old or missing:
        print(
            f"{path.name}: {len(missing)} of {len(plan.trials)} trainings have no row yet, "
            f"{len(old)} row(s) are of other settings than the plan's",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
