"""Whether what a server answered under load was right: the checks of benchmarks/serve.py.

An engine of this process is brought through the run's journal change by change; every distinct
answer must be its own, at the change that the answer states. Every change that was acknowledged
must be in the journal.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from store_engine.decoding.engine import Engine
from store_engine.live.changes import EventsAdded, ItemsAdded, ItemsRemoved, ItemsUpdated, What
from store_engine.live.journal import Journal
from store_engine.serving.owner import Letter
from store_engine.serving.service import Answer, EngineService, Found, Query, Question

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
        truths = service.answer(queries)
        for (number, items), query, truth in zip(answers, queries, truths, strict=True):
            if not is_right(items, truth, partial(scores_of, service, query)):
                yield f"wrong answer to question {number} at change {sequence}: {items}"


def query_of(work: dict[str, Any], number: int) -> Query:
    """Asks an engine what the clients asked: more items would take other candidates too."""
    asked = work["questions"][number]
    return Query(history=tuple(asked.get("history", ())), user=asked.get("user"), k=work["k"])


def scores_of(service: EngineService, query: Query, item_ids: list[str]) -> dict[str, float]:
    """The scores of given items after the history that a query is about."""
    question = Question(history=query.history, user=query.user)
    (found,) = service.answer([Query.for_scores(question, item_ids)])
    return {i: score for i, score, _ in found.items} if isinstance(found, Found) else {}


def is_right(
    items: list[Any], truth: Answer, scores_of: Callable[[list[str]], dict[str, float]]
) -> bool:
    """Whether a ranking is the engine's, but for rounding and the order of what it makes equal.

    Args:
        items: Item ids and scores, best first.
        truth: The engine's.
        scores_of: The engine's scores of given items: of those that `truth` lacks, because they tie
            with its last.
    """
    if not isinstance(truth, Found) or len(items) != len(truth.items):
        return False
    scores = {item_id: score for item_id, score, _ in truth.items}
    if others := [item_id for item_id, _ in items if item_id not in scores]:
        scores |= scores_of(others)
    return len(dict(items)) == len(items) and all(
        abs(scores.get(item_id, np.inf) - score) < TOLERANCE and abs(score - want) < TOLERANCE
        for (item_id, score), (_, want, _) in zip(items, truth.items, strict=True)
    )
