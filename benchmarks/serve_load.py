"""The clients of benchmarks/serve.py: locust's users, in a process of their own.

    python benchmarks/serve_load.py --host http://127.0.0.1:8000 --work WORK.json --out OUT.json

WORK.json says what to ask and how long, OUT.json tells what came back: counts and latencies, every
distinct answer by history and change, and the changes that were acknowledged. serve.py writes the
one and checks the other.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task
from locust.env import Environment

TOLERANCE = 1e-4  # of scores: a batch of another shape rounds otherwise


class Notes:
    """What is asked, and what came back."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.work = work
        self.answers: dict[tuple[int, int], list[tuple[str, float]]] = {}
        self.acknowledged: list[tuple[int, str, str]] = []  # sequence, what, item
        self.failures: list[str] = []
        self.num_differing = 0  # from the answer to the same question before
        self.is_over = False

    def note(self, number: int, answer: dict[str, Any]) -> None:
        """Keeps an answer, or compares it with the one that is there."""
        items = [(one["item_id"], one["score"]) for one in answer["items"]]
        before = self.answers.setdefault((number, answer["sequence"]), items)
        if before is not items and not alike(before, items):
            self.num_differing += 1

    def fail(self, what: str) -> None:
        """Keeps the first failures."""
        if len(self.failures) < 1000:
            self.failures.append(what)


def alike(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    """Whether two rankings are the same, but for rounding and the order of what it makes equal."""
    if len(one) != len(other):
        return False
    if any(abs(a[1] - b[1]) > TOLERANCE for a, b in zip(one, other, strict=True)):
        return False
    if not one:
        return True
    last = one[-1][1]  # what ties with the last may have changed places with what was left out
    of_one, of_other = dict(one), dict(other)
    return all(
        abs(score - last) <= 2 * TOLERANCE
        for item, score in (*one, *other)
        if item not in of_one or item not in of_other
    )


def make_user(notes: Notes) -> type[FastHttpUser]:
    """A user who asks one thing after another without a pause."""

    class Client(FastHttpUser):
        wait_time = constant(0)
        connection_timeout = network_timeout = 60.0

        @task
        def recommend(self) -> None:
            number = random.randrange(len(notes.work["histories"]))
            body = {"history": notes.work["histories"][number], "k": notes.work["k"]}
            with self.client.post("/v1/recommend", json=body, catch_response=True) as response:
                if response.status_code == 200:
                    notes.note(number, json.loads(response.text))
                else:
                    notes.fail(f"{response.status_code}: {(response.text or '')[:200]}")
                    response.failure(str(response.status_code))

    return Client


def change(notes: Notes, environment: Environment) -> None:
    """Takes items out of the catalogue and puts them back, at a given rate."""
    user = make_user(notes)(environment)
    every = 1 / notes.work["changes_per_s"]
    for item_id, text in iter(lambda: random.choice(notes.work["items"]), None):
        for path, body in (
            ("/v1/items/remove", {"item_ids": [item_id]}),
            ("/v1/items", {"items": [{"item_id": item_id, "text": text}]}),
        ):
            began = time.monotonic()
            with user.client.post(path, json=body, catch_response=True, name=path) as response:
                if response.status_code in (200, 201):
                    found = json.loads(response.text)
                    notes.acknowledged.append((found["sequence"], path, item_id))
                else:
                    notes.fail(f"{path} {response.status_code}: {(response.text or '')[:200]}")
                    response.failure(str(response.status_code))
            if notes.is_over:
                return
            gevent.sleep(max(0.0, every - (time.monotonic() - began)))


def main() -> None:
    """Asks for as long as it should, then writes what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    notes = Notes(json.loads(args.work.read_text()))
    environment = Environment(user_classes=[make_user(notes)], events=events, host=args.host)
    runner = environment.create_local_runner()
    runner.start(notes.work["users"], spawn_rate=1000)
    gevent.sleep(notes.work["warm_up_s"])
    environment.stats.reset_all()
    began = time.monotonic()
    changing = gevent.spawn(change, notes, environment) if notes.work["changes_per_s"] else None
    gevent.sleep(notes.work["seconds"])
    seconds, own = time.monotonic() - began, environment.stats.get("/v1/recommend", "POST")
    result = {
        "requests": own.num_requests,
        "per_s": own.num_requests / seconds,
        "p50_ms": own.get_response_time_percentile(0.5) or 0,
        "p99_ms": own.get_response_time_percentile(0.99) or 0,
    }
    notes.is_over = True
    if changing is not None:
        changing.join(timeout=60)
    runner.quit()
    result |= {
        "failures": notes.failures,
        "num_differing": notes.num_differing,
        "answers": [[*key, items] for key, items in notes.answers.items()],
        "acknowledged": notes.acknowledged,
    }
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
