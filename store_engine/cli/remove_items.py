"""Removes items from a run's catalogue; histories may go on naming them.

store-engine remove-items runs/shop --items 50,181
store-engine remove-items runs/shop --items @gone.txt      # one id a line

What is removed stays removed: it stands in the run's journal, on the disk.
"""

import argparse
import contextlib

from store_engine.cli.main import add_run_argument, run_verb
from store_engine.cli.recommend import item_ids


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("remove-items", __doc__, _add_arguments, _remove_items, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--items",
        metavar="IDS",
        required=True,
        help="50,181, a JSON list, or @FILE with one id a line",
    )


def _remove_items(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.decoding.engine import Engine

    ids = item_ids(args.items)
    engine = Engine.load(args.run, device="cpu")
    with contextlib.closing(engine):
        engine.remove_items(ids)
    print(f"{len(ids):,} items removed; the catalogue has {engine.trie.num_items:,}")
