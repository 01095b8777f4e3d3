"""Trains a list of variants of a config and ranks them by NDCG@10 on validation users.

store-engine sweep configs/sweeps/tiny.toml
store-engine sweep configs/sweeps/beauty.toml --data data/beauty --num_accelerators 2
store-engine sweep configs/sweeps/beauty.toml --variants ours store     # only these
store-engine sweep configs/sweeps/beauty.toml --print                   # what is there already

A plan names configs, seeds and variants; store_engine/experiments/plan.py says how. Every variant
with every seed is a training of its own, and a row of FOLDER/rows.jsonl when it ends, well or
badly. The same command again skips what has a row and goes on with what was interrupted. Test
figures stand in the rows; the ranking never sees them.
"""

import argparse
from pathlib import Path

from store_engine.cli.main import add_json_argument, claim_output, print_json, run_verb


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("sweep", __doc__, _add_arguments, _sweep, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the TOML file of variants")
    add_training_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="the rows, instead of FOLDER/rows.jsonl"
    )
    parser.add_argument(
        "--experiments", type=Path, metavar="FILE.csv", help="append a line for each training"
    )
    parser.add_argument("--note", default="", help="what the lines of --experiments say")
    parser.add_argument("--show-test", action="store_true", help="print test figures too")
    parser.add_argument("--print", action="store_true", help="train nothing, print what is there")
    add_json_argument(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares which variants are trained, and how."""
    parser.add_argument("--data", metavar="PATH", help="folder of the data, not the config's")
    parser.add_argument(
        "--num_accelerators",
        type=int,
        metavar="N",
        help="ranks of a training; by default LOCAL_SIZE, else as many as DeepSpeed counts",
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these")
    parser.add_argument("--retry", action="store_true", help="also what failed before")


def _sweep(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.experiments.plan import read_plan
    from store_engine.experiments.report import print_ranking
    from store_engine.experiments.rows import rows_of
    from store_engine.experiments.sweep import Sweep, run_sweep, select
    from store_engine.terminal import make_console

    plan = read_plan(args.plan)
    rows = args.out or plan.folder / "rows.jsonl"
    trials = select(plan, args.variants, args.seeds)
    if not args.print:
        for out in filter(None, (args.out, args.experiments)):
            claim_output(out)
        sweep = Sweep(plan.folder, rows, args.experiments, args.note, args.retry)
        run_sweep(trials, sweep, num_ranks=args.num_accelerators, data=args.data)
    found = rows_of(trials, rows)
    if args.json:
        hidden = () if args.show_test else ("test", "scoring")
        print_json([{key: row[key] for key in row if key not in hidden} for row in found])
    else:
        print_ranking(found, make_console(), args.show_test)
