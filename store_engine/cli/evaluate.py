"""Measures a trained run again: item-level metrics over the whole catalogue.

store-engine evaluate runs/ml100k
store-engine evaluate runs/ml100k --exact                      # every item scored, no beam
store-engine evaluate runs/ml100k decoding.beam_width=100 eval.max_k=50
store-engine evaluate runs/ml100k --validation                 # to choose by, not to report
store-engine evaluate runs/mind --impressions data/mind/impressions.parquet   # click-through

The table has two rules of which items compete, "seen items left out" and "seen items allowed",
for the model and every baseline alike; the star marks the run's own (decoding.exclude_history).
Figures are computed in float32, whatever the run decodes in.
"""

import argparse

from store_engine.cli.main import (
    add_device_argument,
    add_json_argument,
    add_overrides_argument,
    add_run_argument,
    print_json,
    run_verb,
)
from store_engine.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("evaluate", __doc__, _add_arguments, _evaluate, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    add_overrides_argument(parser, "decoding.beam_width=100")
    parser.add_argument("--exact", action="store_true", help="score every item instead of a beam")
    parser.add_argument("--save", action="store_true", help="replace the run's metrics.json")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="measure the validation split, not the test",
    )
    parser.add_argument(
        "--impressions",
        metavar="FILE",
        help="measure click-through among what users were shown, of a run with "
        "recommender.scoring, and nothing else",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def _evaluate(args: argparse.Namespace) -> None:
    if args.impressions is not None:
        if args.save or args.validation or args.exact or args.overrides:
            raise InputError(
                "--impressions goes with none of the other options but --device and --json"
            )
        _print_figures(_click_through(args), args)
        return
    # here, because it takes seconds that --help need not wait for
    from store_engine.evaluation.evaluate_run import evaluate_run, validate_run
    from store_engine.evaluation.report import print_metrics, save_metrics
    from store_engine.runs.run_directory import RunDirectory
    from store_engine.terminal import make_console

    if args.validation:
        if args.save:
            raise InputError("--save keeps test figures, --validation measures none")
        figures = validate_run(
            args.run, exact=args.exact, overrides=args.overrides, device=args.device
        )
        _print_figures(figures, args)
        return
    metrics = evaluate_run(args.run, exact=args.exact, overrides=args.overrides, device=args.device)
    if args.save:
        with RunDirectory.open_to_write(args.run) as run, run.writing(run.metrics):
            save_metrics(metrics, run.metrics)
    if args.json:
        print_json(metrics)
    else:
        print_metrics(metrics, make_console())


def _click_through(args: argparse.Namespace) -> dict[str, float]:
    # here, because it takes seconds that --help need not wait for
    from store_engine.evaluation.impressions import measure_impressions, read_shown
    from store_engine.evaluation.scoring import Scorer
    from store_engine.runs.run import load_run

    run = load_run(args.run)
    if not run.has_scoring:
        raise InputError(f"{args.run}: was trained without recommender.scoring")
    found = read_shown(args.impressions, run.split, run.catalog)
    return measure_impressions(Scorer(run, args.device), run.split, found)


def _print_figures(figures: dict[str, float], args: argparse.Namespace) -> None:
    if args.json:
        print_json(figures)
    else:
        print("  ".join(f"{name} {value:.5g}" for name, value in figures.items()))
