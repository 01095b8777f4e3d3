"""Whether what a server answered under load was right: the checks of benchmarks/serve.py.

An engine of this process is brought through the run's journal change by change; every distinct
answer must be its own, at the change that the answer states. Every change that was acknowledged
must be in the journal.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from store_engine.decoding.engine import Engine
from store_engine.live.changes import EventsAdded, ItemsAdded, ItemsRemoved, ItemsUpdated, What
from store_engine.live.journal import Journal
from store_engine.serving.owner import Letter
from store_engine.serving.service import EngineService, Found, Query

TOLERANCE = 1e-4  # of scores: a batch of another shape rounds otherwise
MADE = {
    "/v1/items": ItemsAdded,
    "/v1/items/update": ItemsUpdated,
    "/v1/items/remove": ItemsRemoved,
    "/v1/events": EventsAdded,
}


class Checked(NamedTuple):
    """What is wrong, and how much was looked at."""

    problems: list[str]
    counts: dict[str, int]


def check(run_dir: Path, work: dict[str, Any], rounds: list[dict[str, Any]]) -> Checked:
    """Compares every answer with an engine's that has the same changes."""
    failures = [f"failed: {one}" for result in rounds for one in result["failures"]]
    lost, acknowledged = [], [one for result in rounds for one in result["acknowledged"]]
    changes = {change.sequence: change.what for change in Journal.open(run_dir).since(0)}
    for sequence, path, body in acknowledged:
        if not is_made(changes.get(sequence), path, body):
            lost.append(f"change {sequence} ({path} {body}) is lost")
    paths = {path for _, path, _ in acknowledged}
    if work["changes_per_s"] and len(paths) < len(MADE):
        failures.append(f"failed: of the kinds of changes only {sorted(paths)} were made")
    by_sequence = defaultdict(list)
    for result in rounds:
        for number, sequence, items in result["answers"]:
            by_sequence[sequence].append((number, items))
    wrong = list(wrong_answers(run_dir, work, by_sequence))
    num_differing = sum(result["num_differing"] for result in rounds)
    num_stale = sum(result["num_stale"] for result in rounds)
    problems = failures + lost + wrong
    if num_differing:
        problems.append(f"{num_differing} answers differ from the same one before")
    if num_stale:
        problems.append(f"{num_stale} answers lack a change that all replicas were said to have")
    counts = {
        "failed": len(failures),
        "wrong": len(wrong) + num_differing,
        "stale": num_stale,
        "checked": sum(map(len, by_sequence.values())),
        "states": len(by_sequence),
        "acknowledged": len(acknowledged),
        "lost": len(lost),
    }
    return Checked(problems, counts)


def is_made(what: What | None, path: str, body: Any) -> bool:
    """Whether a change in the journal is the one that was asked for."""
    if type(what) is not MADE[path]:
        return False
    match what:
        case ItemsAdded(items):  # and ItemsUpdated
            return list(items.item_ids) == [one["item_id"] for one in body["items"]]
        case ItemsRemoved(item_ids):
            return list(item_ids) == body["item_ids"]
        case EventsAdded(events):
            return [one._asdict() for one in events] == body["events"]
    return False


def wrong_answers(
    run_dir: Path, work: dict[str, Any], by_sequence: dict[int, list[tuple[int, list[Any]]]]
) -> Iterator[str]:
    """Goes through the journal change by change; tells of answers that are not the engine's."""
    service = EngineService(Engine.load(run_dir, journal=False), "truth", 0)
    journal = Journal.open(run_dir)
    for sequence in sorted(by_sequence):
        for change in journal.since(service.sequence):
            if change.sequence > sequence:
                break
            service.apply(Letter.of(service.sequence, change.sequence, [change]))
        answers = by_sequence[sequence]
        queries = [query_of(work, number) for number, _ in answers]
        for (number, items), truth in zip(answers, service.answer(queries), strict=True):
            if not isinstance(truth, Found) or not is_right(items, truth, work["k"]):
                yield f"wrong answer to question {number} at change {sequence}: {items}"


def query_of(work: dict[str, Any], number: int) -> Query:
    """Asks an engine what the clients asked, and for a few items more."""
    asked = work["questions"][number]
    return Query(history=tuple(asked.get("history", ())), user=asked.get("user"), k=work["k"] + 5)


def is_right(items: list[Any], truth: Found, k: int) -> bool:
    """Whether a ranking is the engine's, but for rounding and the order of what it makes equal."""
    scores = {item_id: score for item_id, score, _ in truth.items}
    best = [score for _, score, _ in truth.items][:k]
    if not len(dict(items)) == len(items) == len(best):
        return False
    return all(
        abs(scores.get(item_id, np.inf) - score) < TOLERANCE and abs(score - want) < TOLERANCE
        for (item_id, score), want in zip(items, best, strict=True)
    )
