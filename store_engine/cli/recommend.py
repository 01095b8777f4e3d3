"""Recommends items after a history, from a trained run.

store-engine recommend runs/ml100k --history 50,181,172
store-engine recommend runs/ml100k --history 50,181,172 -k 5 --json
store-engine recommend runs/ml100k --history '["id, with a comma", "181"]' --deny @sold_out.txt
store-engine recommend runs/ml100k --history ""          # a user without history
store-engine recommend runs/ml100k --users 196,305                       # users of the run
store-engine recommend runs/ml100k --users 196,305 --output recs.parquet
store-engine recommend runs/ml100k --input histories.csv --output recs.csv
store-engine recommend runs/ml100k --input histories/ --output recs/ --ray   # a folder of shards
"""

import argparse
from typing import TYPE_CHECKING, Any

from store_engine.cli.main import (
    add_backend_argument,
    add_device_argument,
    add_json_argument,
    add_run_argument,
    print_json,
    run_verb,
)
from store_engine.cli.recommend_batch import add_batch_arguments, is_batch, recommend_batch
from store_engine.data.id_lists import parse_ids
from store_engine.files.regular import parse_errors, read_regular
from store_engine.terminal import make_console, printable

if TYPE_CHECKING:
    from store_engine.decoding.engine import Engine, Recommendation
    from store_engine.decoding.explanation import Explanation

_MAX_LIST_BYTES = 1 << 30
_SHOWN_REASONS = 5  # of an explanation
_EPILOG = """\
IDS is a list of item ids: 50,181 or, for ids with commas, a JSON list '["50", "181"]', or @FILE,
a text file with one id a line; --history=-5 for an id that begins with a dash. A history runs from
the oldest item to the latest; runs/NAME/items.jsonl lists all ids. Every item that comes back is in
the catalogue. Items are ordered by score: the log-probability of the item's semantic ID after the
history, of which 0 would be certain and -2.3 is one in ten, plus the item-item evidence of a run
that has some; scores can then be above 0. A wider beam is slower and closer to the exact ranking;
--exact scores the whole catalogue and needs no beam.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("recommend", __doc__, _add_arguments, _recommend, argv)


def item_ids(text: str) -> list[str]:
    """Reads a list of item ids.

    Args:
        text: `50,181`, a JSON list, or `@FILE` with one id a line; spaces around ids do not count,
            but in JSON.

    Raises:
        InputError: The JSON list is none, or holds something else than ids; or the file cannot be
            read.
    """
    if text.startswith("@"):
        content = read_regular(text[1:], _MAX_LIST_BYTES)
        with parse_errors(text[1:], "a text file in UTF-8"):
            lines = content.decode("utf-8-sig").split("\n")
        return [line.strip() for line in lines if line.strip()]
    return parse_ids(text)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_run_argument(parser)
    history = parser.add_mutually_exclusive_group(required=True)
    history.add_argument("--history", metavar="IDS", help="item ids, oldest first")
    history.add_argument(
        "--history-item", metavar="ID", action="append", help="one id as it is; repeat it"
    )
    add_batch_arguments(parser, history)
    parser.add_argument("-k", type=int, default=10, help="items wanted (default 10)")
    parser.add_argument("--allow", metavar="IDS", help="recommend none but these")
    parser.add_argument("--deny", metavar="IDS", help="recommend none of these")
    parser.add_argument("--exclude", metavar="IDS", help="the same, for items on the page already")
    parser.add_argument(
        "--exclude-history",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="never recommend an item of the history (default: the run's choice)",
    )
    parser.add_argument(
        "--beam-width", type=int, metavar="N", help="beams, at least k (default: the run's)"
    )
    parser.add_argument("--exact", action="store_true", help="score every item; no beam")
    add_backend_argument(parser)
    parser.add_argument(
        "--explain", action="store_true", help="say which items of the history made each item"
    )
    add_device_argument(parser)
    add_json_argument(parser)


def _recommend(args: argparse.Namespace) -> None:
    sets = {
        name: item_ids(ids)
        for name in ("allow", "deny")
        if (ids := getattr(args, name)) is not None
    }
    excluded = item_ids(args.exclude) if args.exclude else []
    if is_batch(args):
        users = None if args.users is None else item_ids(args.users)
        recommend_batch(args, users, sets.get("allow"), [*sets.get("deny", ()), *excluded])
        return
    # here, because it takes seconds that --help need not wait for
    from store_engine.decoding.engine import Engine

    users = None if args.users is None else item_ids(args.users)
    engine = Engine.load(args.run, device=args.device, backend=args.backend)
    for name, ids in sets.items():
        engine.define(name, ids)
    if users is not None:
        histories = [engine.history_of(user) for user in users]
    else:
        histories = [args.history_item if args.history is None else item_ids(args.history)]
    answers = engine.recommend(
        histories,
        args.k,
        allow="allow" if "allow" in sets else None,
        deny="deny" if "deny" in sets else None,
        exclude=[excluded] * len(histories),
        beam_width=args.beam_width,
        exclude_history=args.exclude_history,
        exact=args.exact,
    )
    reasons = [
        [engine.explain(history, item.item_id) for item in found] if args.explain else []
        for history, found in zip(histories, answers, strict=True)
    ]
    if args.json:
        listed = [_as_list(engine, *one) for one in zip(answers, reasons, strict=True)]
        named = zip(users or (), listed, strict=False)
        by_user = [{"user_id": user, "items": items} for user, items in named]
        print_json(listed[0] if users is None else by_user)
        return
    for number, (history, found) in enumerate(zip(histories, answers, strict=True)):
        if users is not None:
            make_console(soft_wrap=True).print(f"user {printable(users[number])}")
        _show(engine, history, found)
        _explain(engine, reasons[number])


def _as_list(
    engine: "Engine", found: list["Recommendation"], reasons: list["Explanation"]
) -> list[dict[str, Any]]:
    items = [_as_dict(engine, rank, item) for rank, item in enumerate(found, 1)]
    for item, one in zip(items, reasons, strict=False):
        item["explanation"] = explanation_as_dict(one)
    return items


def _as_dict(engine: "Engine", rank: int, item: "Recommendation") -> dict[str, Any]:
    title = _title_of(engine, item.item_id)
    parts = {"score": item.score, "logprob": item.logprob, "evidence": item.evidence}
    return {"rank": rank, "item_id": item.item_id, "title": title} | parts


def _title_of(engine: "Engine", item_id: str) -> str:
    """Returns the item's first text field."""
    titles = next(iter(engine.catalog.fields.values()))
    return titles[engine.catalog.row_of(item_id)]


def explanation_as_dict(one: "Explanation") -> dict[str, Any]:
    """An explanation for JSON."""
    events = [
        reason._asdict() | {"evidence_share": share}
        for reason, share in zip(one.history, one.shares, strict=True)
    ]
    return one._asdict() | {"score": one.score, "history": events}


def _explain(engine: "Engine", reasons: list["Explanation"]) -> None:
    """Prints, for every item, the events that speak for it, the strongest first."""
    console = make_console(soft_wrap=True)
    for one in reasons:
        sid = " ".join(map(str, one.sid))
        console.print(
            f"{printable(one.item_id)} {printable(_title_of(engine, one.item_id))}: SID {sid}, "
            f"log-probability {one.logprob:.3f}, evidence {one.evidence:.3f}"
        )
        events = sorted(
            zip(one.history, one.shares, strict=True),
            key=lambda pair: (-pair[0].evidence, -pair[0].logprob_gain),
        )
        for reason, share in events[:_SHOWN_REASONS]:
            console.print(
                f"  after {printable(reason.item_id)} "
                f"{printable(_title_of(engine, reason.item_id))}: {share:.0%} of the evidence, "
                f"LLM {reason.logprob_gain:+.3f}, {reason.shared_codes} first codes shared"
            )


def _show(engine: "Engine", history: list[str], found: list["Recommendation"]) -> None:
    """Prints the history's titles and the table of recommendations."""
    from rich.table import Table

    console = make_console()
    for item_id in history[-5:]:
        console.print("after", printable(item_id), printable(_title_of(engine, item_id)))
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item id", overflow="fold")  # never cut: it is what one copies
    table.add_column("title")
    table.add_column("score", justify="right")
    if engine.has_evidence:  # else the score is the log-probability
        table.add_column("log-probability", justify="right")
        table.add_column("evidence", justify="right")
    for rank, item in enumerate(found, 1):
        title = printable(_title_of(engine, item.item_id))
        parts = (item.logprob, item.evidence) if engine.has_evidence else ()
        figures = [f"{figure:.3f}" for figure in (item.score, *parts)]
        table.add_row(str(rank), printable(item.item_id), title, *figures)
    console.print(table)
