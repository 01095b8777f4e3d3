"""Counts a run's item-item evidence anew, with the events since it was trained. No training.

store-engine evidence runs/shop --interactions since_training.csv
store-engine evidence runs/shop --interactions since_training.csv --unknown-items drop --json

The file holds all events since the training, also those of an earlier call, with the run's columns
or as `prepare` read them, by its rules. Weights stay as
validation chose them. Engines that load the run from then on recommend with the new counts
(RUN/evidence_now.npz); `evaluate` does not, as they may hold the test's targets.
"""

import argparse
import sys

from store_engine.cli.main import add_json_argument, add_run_argument, print_json, run_verb
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("evidence", __doc__, _add_arguments, _evidence, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--interactions",
        metavar="FILE",
        help="the events since the training, of any user; without it the run's own are counted, "
        "the test's too",
    )
    parser.add_argument(
        "--unknown-items",
        choices=["error", "drop"],
        default="error",
        help="events of items that the run has not (default error)",
    )
    add_json_argument(parser)


def _evidence(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.runs.newer_evidence import update_evidence

    found = update_evidence(args.run, args.interactions, args.unknown_items)
    if args.json:
        print_json(found._asdict())
        return
    for note in found.notes:
        print(printable(note), file=sys.stderr)
    left_out = f", {found.num_unknown:,} of unknown items left out" if found.num_unknown else ""
    print(
        f"counted {found.num_events:,} events, {found.num_new_events:,} of them new{left_out}: "
        f"{found.num_votes:,} votes; engines that load the run now recommend with them"
    )
