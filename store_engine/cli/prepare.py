"""Makes a folder to train on out of files as they come: guesses, cleans, filters, counts.

store-engine prepare shop_export/ --out data/shop
store-engine prepare orders.csv products.csv --positive "quantity > 0" --on-error drop --out shop
store-engine prepare Beauty.jsonl.gz meta_Beauty.jsonl.gz --min-user 5 --min-item 5 --out beauty
store-engine prepare shop_export/ --dry-run     # what it would read, and what it would say

The output is interactions.parquet, items.parquet, a data card (README.md, card.json) and data.toml:

deepspeed store_engine/train.py --ds_config configs/zero3.json --config data/shop/data.toml
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from store_engine.cli.main import add_json_argument, print_json, run_verb
from store_engine.errors import InputError
from store_engine.terminal import make_console

_LONG_S = 10


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("prepare", __doc__, _add_arguments, _prepare, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "paths", nargs="*", type=Path, metavar="PATH", help="files or folders with events and items"
    )
    add("--out", type=Path, metavar="DIR", help="folder to make")
    add("--overwrite", action="store_true", help="replace what an earlier prepare made in DIR")
    add(
        "--dry-run",
        action="store_true",
        help="show the guess and what would be said of the first rows; write nothing",
    )
    add_json_argument(parser)
    read = parser.add_argument_group("what is read, where the guess is wrong")
    add = read.add_argument
    add("--format", default="auto", help="a data set or a kind of file; auto (default) finds it")
    for what in ("events", "items"):
        add(
            f"--{what}",
            type=Path,
            nargs="+",
            action="extend",
            default=[],
            metavar="PATH",
            help=f"files of {what}; several are parts of one table",
        )
    add("--user", default="", metavar="COLUMN", help="column of the user ids")
    add("--item", default="", metavar="COLUMN", help="column of the item ids")
    add("--time", default="", metavar="COLUMN", help="column of the times; none: file order")
    add(
        "--time-format",
        default="",
        metavar="FORMAT",
        help="of strptime, such as '%%d.%%m.%%Y %%H:%%M'",
    )
    add("--text", default="", metavar="A,B", help="columns with the items' texts, the title first")
    add("--event-columns", default="", metavar="A,B", help="names, where events have no header")
    add("--item-columns", default="", metavar="A,B", help="names, where items have no header")
    rules = parser.add_argument_group("what is kept")
    add = rules.add_argument
    add("--positive", default="", metavar="EXPR", help='which events count, as "quantity > 0"')
    add("--min-user", type=int, default=3, metavar="N", help="least events of a user (default 3)")
    add("--min-item", type=int, default=0, metavar="N", help="least events of an item (default 0)")
    add(
        "--on-error", choices=("stop", "drop"), default="stop", help="what bad rows do, all counted"
    )
    add("--unknown-items", choices=("error", "drop"), default="error", help="events of such items")
    add("--duplicates", choices=("drop", "keep"), default="drop", help="same user, item and time")
    add("--ties", choices=("file", "shuffle"), default="file", help="order of a user's equal times")
    add("--seed", type=int, default=0, help="of shuffled ties")
    add("--memory", type=float, default=2.0, metavar="GIB", help="for tables; the rest spills")


def _prepare(args: argparse.Namespace) -> None:
    # here, because it takes seconds that --help need not wait for
    from store_engine.prepare.card import print_report
    from store_engine.prepare.guess import guess_lines
    from store_engine.prepare.output import look, prepare
    from store_engine.prepare.readers.discover import Choices, discover
    from store_engine.prepare.rules import Rules

    rules = Rules(
        args.min_user, args.min_item, args.on_error, args.unknown_items, args.duplicates,
        args.positive, args.time_format, args.ties, args.seed, args.memory,
    )  # fmt: skip
    texts, events, items = (_names(s) for s in (args.text, args.event_columns, args.item_columns))
    choices = Choices(args.format, args.user, args.item, args.time, texts, events, items)
    if not (args.paths or args.events):
        raise InputError("name the files: PATH ... or --events")
    if args.out is None and not args.dry_run:
        raise InputError("--out DIR is missing")
    found = discover(args.paths, args.events, args.items, choices)
    console = make_console(stderr=args.json)
    for line in guess_lines(found):
        console.print(line)
    if args.dry_run:
        report = look(found, rules, args.out, args.overwrite)
    else:
        with _steps() as say:
            report = prepare(found, rules, args.out, args.overwrite, say)
    if args.json:
        print_json(report.as_json())
        return
    print_report(console, report)
    if args.dry_run:
        console.print(f"dry run, nothing is written: {report.part()}")
    else:
        console.print(f"wrote {args.out}; train with --config {args.out / 'data.toml'}")


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Shows on stderr which step is at work: in place on a terminal, else a line if it is long."""
    console, began = make_console(stderr=True), time.perf_counter()

    def say(step: str) -> None:
        if (seconds := time.perf_counter() - began) > _LONG_S:
            console.print(f"{seconds:6.0f} s  {step}")

    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield say


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
