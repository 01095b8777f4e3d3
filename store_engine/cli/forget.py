"""Deletes a user from a run: from histories, training data and journal.

store-engine forget runs/shop --user 4711

It does not undo what was learnt: the weights and the item-item evidence were made of all users'
events, this one's among them; train anew to be rid of that. Nor does it reach the files that the
run was made from, backups, checkpoints, or blocks that a disk keeps of deleted files.
"""

import argparse
import contextlib

from store_engine.cli.main import add_run_argument, run_verb
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("forget", __doc__, _add_arguments, _forget, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--user", metavar="ID", required=True, help="the user's id")


def _forget(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.decoding.engine import Engine

    engine = Engine.load(args.run, device="cpu")
    with contextlib.closing(engine):
        engine.forget_user(args.user)
    print(f"{printable(args.user)}: deleted from histories, training data and journal")
    print("weights and item-item evidence were learnt from all users, and stay as they are")
