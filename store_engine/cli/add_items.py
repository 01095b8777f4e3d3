"""Adds new items to a run's catalogue: the run's LLM reads their texts and gives them SIDs.

store-engine add-items runs/shop --items new.csv
store-engine add-items runs/shop --items new.parquet --update    # replace texts of known items too

Every item that this prints is on the disk, in the run's journal: the next `Engine.load` has it,
and a server that follows the journal shows it. A run that a server writes to is refused: ask the
server.
"""

import argparse
import contextlib
from pathlib import Path

from store_engine.cli.main import (
    add_device_argument,
    add_json_argument,
    add_run_argument,
    print_json,
    run_verb,
    warnings_as_lines,
)
from store_engine.terminal import printable


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("add-items", __doc__, _add_arguments, _add_items, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--items",
        metavar="FILE",
        type=Path,
        required=True,
        help="csv, tsv, parquet or jsonl with the run's columns",
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="items of the catalogue get the file's text; without it they are an error",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def _add_items(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.data.readers import read_items
    from store_engine.decoding.engine import Engine
    from store_engine.runs.run import load_run

    run = load_run(args.run)
    items = read_items(args.items, run.config.data.item_id, tuple(run.catalog.fields))
    engine = Engine.load(run, device=args.device)
    with contextlib.closing(engine), warnings_as_lines():
        sids = {}
        is_old = engine.has_items(items.item_ids) if args.update else [False] * items.num_items
        if old := [row for row, is_there in enumerate(is_old) if is_there]:
            sids = engine.update_items(items.take(old))
        num_updated = len(sids)
        if new := [row for row, is_there in enumerate(is_old) if not is_there]:
            sids |= engine.add_items(items.take(new))
    if args.json:
        print_json(sids)
        return
    for item_id, sid in sids.items():
        print(printable(item_id), *sid)
    print(
        f"{len(sids) - num_updated:,} items added, {num_updated:,} updated; the catalogue has "
        f"{engine.trie.num_items:,}"
    )
