"""What the clients of benchmarks/serve.py are told to do: questions, changes, how long."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring.harness import Options
from store_engine.decoding.engine import Engine
from store_engine.runs.run import load_run

K = 10
ROUNDS = {"quiet": 5, "batches": 5, "changes": 1}
PER_REQUEST = {"quiet": 1, "batches": 32, "changes": 1}
# few, where every answer is kept by its change
NUM_QUESTIONS = {"quiet": 5000, "batches": 5120, "changes": 64}

Work = dict[str, Any]


def make_work(options: Options, run_dir: Path, case: str) -> Work:
    """What the clients do: to change are the items that are recommended most."""
    questions = make_questions(run_dir, NUM_QUESTIONS[case], by_user=case == "changes")
    catalog = load_run(run_dir).catalog
    own = Engine.load(run_dir, journal=False).recommend(
        histories_of(run_dir, questions[: NUM_QUESTIONS["changes"]]), K
    )
    counts = Counter(item.item_id for items in own for item in items)
    items = [
        (item_id, {name: texts[catalog.row_of(item_id)] for name, texts in catalog.fields.items()})
        for item_id, _ in counts.most_common(200)
    ]
    seconds = min(options.extra.seconds, 5.0) if options.quick else options.extra.seconds
    return {
        "questions": questions,
        "items": items,
        "users": [one["user"] for one in questions if "user" in one],
        "k": K,
        "per_request": PER_REQUEST[case],
        "num_clients": max(1, options.extra.clients // PER_REQUEST[case]),
        "seconds": seconds / ROUNDS[case],
        "warm_up_s": 1.0 if options.quick else 5.0,
        "changes_per_s": options.extra.changes_per_s if case == "changes" else 0,
    }


def make_questions(run_dir: Path, count: int, by_user: bool) -> list[dict[str, Any]]:
    """Histories to ask with: the ends of the run's own, cut at random; or every other one whose."""
    run, rng = load_run(run_dir), np.random.default_rng(0)
    ids, histories, found = run.catalog.item_ids, run.histories, []
    for number in range(count):
        user = int(rng.integers(histories.num_users))
        rows = histories[user]
        history = [ids[row] for row in rows[: rng.integers(len(rows) + 1)][-50:]]
        asked: dict[str, Any] = {"history": history}
        found.append({"user": histories.user_ids[user]} if by_user and number % 2 else asked)
    return found


def histories_of(run_dir: Path, questions: list[dict[str, Any]]) -> list[list[str]]:
    """The histories that questions are about, as the run's files have them."""
    run = load_run(run_dir)
    ids, histories = run.catalog.item_ids, run.histories
    place = {user: i for i, user in enumerate(histories.user_ids)}
    return [
        one["history"] if "history" in one else [ids[row] for row in histories[place[one["user"]]]]
        for one in questions
    ]
