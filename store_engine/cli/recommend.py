"""Recommends items after a history, from a trained run.

store-engine recommend --run runs/ml100k --history 50,181,172
store-engine recommend --run runs/ml100k --history 50,181,172 -k 5 --json
store-engine recommend --run runs/ml100k --history ""          # a user without history
"""

import argparse
import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from store_engine.decoding.engine import Engine, Recommendation
from store_engine.errors import InputError

EPILOG = """\
The history is a list of item ids, oldest first; runs/NAME/items.jsonl lists all ids. Every item
that comes back is in the catalogue. The score is the log-probability of the item's semantic ID
after the history: 0 would be certain, and -2.3 is one in ten. A wider beam is slower and closer to
the exact ranking; --exact scores the whole catalogue and needs no beam.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see the module's docstring.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        The exit status: 0, or 2 when the input is wrong.
    """
    args = parse_args(argv)
    history = [item_id.strip() for item_id in args.history.split(",") if item_id.strip()]
    try:
        engine = Engine.load(args.run, device=args.device, backend=args.backend)
        found = engine.recommend(
            [history],
            args.k,
            beam_width=args.beam_width,
            exclude_history=args.exclude_history,
            exact=args.exact,
        )[0]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([as_dict(engine, rank, item) for rank, item in enumerate(found, 1)]))
    else:
        show(engine, history, found)
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="store-engine recommend",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run directory of a training")
    parser.add_argument(
        "--history", required=True, metavar="IDS", help="item ids, oldest first, comma-separated"
    )
    parser.add_argument("-k", type=int, default=10, help="items wanted (default 10)")
    parser.add_argument(
        "--beam-width", type=int, metavar="N", help="beams, at least k (default: the run's)"
    )
    parser.add_argument("--exact", action="store_true", help="score every item; no beam")
    parser.add_argument(
        "--exclude-history",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="never recommend an item of the history (default: the run's choice)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument(
        "--backend",
        choices=["auto", "cpp", "torch", "triton"],
        default="auto",
        help="of the beam search",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


def as_dict(engine: Engine, rank: int, item: Recommendation) -> dict[str, str | int | float]:
    """One recommendation as JSON."""
    title = title_of(engine, item.item_id)
    return {"rank": rank, "item_id": item.item_id, "title": title, "logprob": item.logprob}


def title_of(engine: Engine, item_id: str) -> str:
    """The item's first text field."""
    titles = next(iter(engine.catalog.fields.values()))
    return titles[engine.catalog.row_of(item_id)]


def show(engine: Engine, history: list[str], found: list[Recommendation]) -> None:
    """Prints the history's titles and the table of recommendations."""
    console = Console()
    for item_id in history[-5:]:
        console.print("after", item_id, title_of(engine, item_id), markup=False, highlight=False)
    table = Table("rank", "item id", "title", "log-probability")
    for column in (0, 3):
        table.columns[column].justify = "right"
    for rank, item in enumerate(found, 1):
        title = title_of(engine, item.item_id)
        table.add_row(str(rank), escape(item.item_id), escape(title), f"{item.logprob:.3f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
