"""Makes what changed since training a part of the run's files, and the journal short again.

store-engine compact runs/shop

New items get a place in items.jsonl, SIDs, trie and weights; a later load maps them instead of
adding them. Removed items and later events stay in the journal, which is written anew. The run is
replaced in one step: a kill leaves it as it was, or compacted. The histories that a run is
measured on do not change, nor does metrics.json.
"""

import argparse
import contextlib

from store_engine.cli.main import add_run_argument, run_verb


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("compact", __doc__, add_run_argument, _compact, argv)


def _compact(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.decoding.engine import Engine

    engine = Engine.load(args.run, device="cpu")
    with contextlib.closing(engine):
        engine.compact()
    print(
        f"{args.run}: has all changes up to number {engine.sequence:,}; "
        f"{engine.trie.num_items:,} items"
    )
