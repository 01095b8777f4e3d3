"""Adds new items to a run's catalogue: the run's LLM reads their texts and gives them SIDs.

store-engine add-items runs/shop --items new.csv
store-engine add-items runs/shop --items new.parquet --update    # replace texts of known items too
store-engine add-items runs/shop --items new.csv --columns item_id=sku,title=name

Every item that this prints is on the disk, in the run's journal: the next `Engine.load` has it,
and a server that follows the journal shows it. A run that a server writes to is refused: ask the
server. A text field that the file lacks is empty, which is said. Where `prepare` made the run's
data, a file of the shop's own shape is cleaned as it was then.
"""

import argparse
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from store_engine.cli.main import (
    add_device_argument,
    add_json_argument,
    add_run_argument,
    print_json,
    run_verb,
    warn,
    warnings_as_lines,
)
from store_engine.errors import InputError, shown
from store_engine.terminal import printable

if TYPE_CHECKING:
    from store_engine.data.catalog import Catalog
    from store_engine.runs.run import Run


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
        help="csv, tsv, parquet or jsonl with the run's columns, or as `prepare` read it",
    )
    add_columns_argument(parser)
    parser.add_argument(
        "--update",
        action="store_true",
        help="items of the catalogue get the file's text; without it they are an error",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def add_columns_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --columns."""
    parser.add_argument(
        "--columns",
        type=_column_map,
        default={},
        metavar="NAME=COLUMN,...",
        help="what the file calls the run's columns, such as item_id=sku,title=name",
    )


def read_new_items(run: "Run", path: str | Path, columns: Mapping[str, str]) -> "Catalog":
    """Reads new items of a run; says what was guessed, and which fields the file lacks.

    Args:
        run: Whose fields they are to have.
        path: A file of items.
        columns: The run's names of columns -> the file's; what is left out has the run's name.

    Raises:
        InputError: The file cannot be read, has no column of ids or none of the fields, or
            `columns` names a field that the run has not.
    """
    # here, because it takes seconds that --help need not wait for
    from store_engine.data.catalog import Catalog
    from store_engine.data.readers import read_items
    from store_engine.data.report import DataReport
    from store_engine.data.tables.lines import MissingColumnError
    from store_engine.prepare.readers.columns import item_column
    from store_engine.runs.later_files import LaterFiles

    report = DataReport()
    if not columns and (raw := LaterFiles(run, run.config.data, report).raw_items(Path(path))):
        for note in report.notes:
            print(printable(note), file=sys.stderr)
        return raw
    id_name, fields = run.config.data.item_id, tuple(run.catalog.fields)
    if unknown := [name for name in columns if name not in (id_name, *fields)]:
        raise InputError(
            f"--columns: the run has no column {shown(unknown[0])}, it has "
            f"{', '.join((id_name, *fields))}"
        )
    item_id = columns.get(id_name, id_name)
    texts = {field: columns.get(field, field) for field in fields}
    while True:
        try:
            found = read_items(path, item_id, tuple(texts.values()))
            break
        except MissingColumnError as error:
            guess = item_column(error.found)
            if error.name == item_id and id_name not in columns and guess not in ("", item_id):
                warn(f"{path}: has no column {item_id}; {guess} is taken for the ids")
                item_id = guess
                continue
            missing = [field for field in texts if texts[field] == error.name != item_id]
            if not missing or missing[0] in columns or len(texts) == 1:
                raise
            warn(f"{path}: has no column {error.name}: its items have none")
            del texts[missing[0]]
    empty = ("",) * found.num_items
    named = {field: found.fields[column] for field, column in texts.items()}
    return Catalog(found.item_ids, {field: named.get(field, empty) for field in fields})


def _column_map(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and column.strip() for name, _, column in pairs):
        raise argparse.ArgumentTypeError(f"must be NAME=COLUMN,..., got {text!r}")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _add_items(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.decoding.engine import Engine
    from store_engine.runs.run import load_run

    run = load_run(args.run)
    items = read_new_items(run, args.items, args.columns)
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
