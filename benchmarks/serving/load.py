"""The clients of benchmarks/serve.py: locust's users, in a process of their own.

    python benchmarks/serving/load.py --host http://127.0.0.1:8000 --work WORK.json --out OUT.json

WORK.json says what to ask and how long, OUT.json tells what came back: counts and latencies, every
distinct answer by question and change, and the changes that were acknowledged. serve.py writes the
one and checks the other. A kind of client that did nothing ends the program with status 1.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, constant_throughput, events, task
from locust.env import Environment

TOLERANCE = 1e-4  # of scores: a batch of another shape rounds otherwise
TIMEOUT_S = 60.0
ALONE, TOGETHER = "/v1/recommend", "/v1/recommend/batch"
JSON_TYPE = {"Content-Type": "application/json"}


class Notes:
    """What is asked, and what came back."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.work = work
        self.answers: dict[tuple[int, int], list[tuple[str, float]]] = {}
        self.acknowledged: list[tuple[int, str, Any]] = []  # sequence, path, body
        self.failures: list[str] = []
        self.num_differing = 0  # from the answer to the same question before
        self.num_stale = 0  # without a change that every replica was said to have
        self.visible = 0  # the last such change
        self._last: dict[Sequence[int], tuple[str, int]] = {}  # by questions: text, visible
        self.acted: Counter[str] = Counter()  # by kind of client

    def note(self, numbers: Sequence[int], text: str, visible: int) -> None:
        """Keeps the answers to questions, or compares them with those that are there.

        Args:
            numbers: Of the questions of one request.
            text: What came back: one answer, or a batch of them.
            visible: The last change that every replica was said to have when they were asked.
        """
        if self._last.get(numbers) == (text, visible):  # reading it again would tell nothing new
            return
        self._last[numbers] = text, visible
        told = json.loads(text)
        for number, answer in zip(numbers, told.get("answers", [told]), strict=True):
            items = [(one["item_id"], one["score"]) for one in answer["items"]]
            before = self.answers.setdefault((number, answer["sequence"]), items)
            self.num_differing += before is not items and not alike(before, items)
            self.num_stale += answer["sequence"] < visible

    def acknowledge(self, path: str, body: Any, answer: dict[str, Any]) -> None:
        """Keeps a change that was acknowledged."""
        self.acknowledged.append((answer["sequence"], path, body))
        if answer["visible"]:
            self.visible = max(self.visible, answer["sequence"])

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


class Client(FastHttpUser):
    """Whoever posts; what is not answered as it should be is noted."""

    abstract = True
    connection_timeout = network_timeout = TIMEOUT_S
    notes: Notes

    def ask(self, path: str, body: bytes) -> str | None:
        """Posts JSON; returns the answer, None for a failure."""
        with self.client.post(
            path, data=body, headers=JSON_TYPE, catch_response=True, name=path
        ) as response:
            self.notes.acted[type(self).__name__] += 1
            if response.status_code in (200, 201):
                return response.text
            self.notes.fail(f"{path} {response.status_code}: {(response.text or '')[:200]}")
            response.failure(str(response.status_code))
            return None


def clients_of(work_notes: Notes) -> list[type[Client]]:
    """The kinds of clients that the work is for."""

    class Asker(Client):
        """Asks one thing after another without a pause."""

        notes = work_notes
        wait_time = constant(0)

        requests = requests_of(notes.work)

        @task
        def recommend(self) -> None:
            visible, (path, numbers, body) = self.notes.visible, random.choice(self.requests)
            if (text := self.ask(path, body)) is not None:
                self.notes.note(numbers, text, visible)

    if not work_notes.work["changes_per_s"]:
        return [Asker]

    class Keeper(Client):
        """Changes items and histories, at a given rate; there is one."""

        notes = work_notes
        fixed_count = 1
        wait_time = constant_throughput(notes.work["changes_per_s"])
        changes = changes_of(notes.work)

        @task
        def change(self) -> None:
            path, body = next(self.changes)
            if (text := self.ask(path, json.dumps(body).encode())) is not None:
                self.notes.acknowledge(path, body, json.loads(text))

    return [Asker, Keeper]


def requests_of(work: dict[str, Any]) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Prepares the requests: path, the numbers of the questions, body."""
    questions = [one | {"k": work["k"]} for one in work["questions"]]
    if work["per_request"] == 1:
        return [(ALONE, (i,), json.dumps(one).encode()) for i, one in enumerate(questions)]
    size, found = work["per_request"], []
    for begin in range(0, len(questions), size):
        part = questions[begin : begin + size]
        numbers = tuple(range(begin, begin + len(part)))
        found.append((TOGETHER, numbers, json.dumps({"requests": part}).encode()))
    return found


def changes_of(work: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Takes one item after another out, puts it back, and gives it another's text; somebody clicks.

    Yields:
        Path and body.
    """
    while True:
        (item_id, text), (_, other) = random.sample(work["items"], 2)
        yield "/v1/items/remove", {"item_ids": [item_id]}
        yield "/v1/items", {"items": [{"item_id": item_id, "text": text}]}
        yield "/v1/items/update", {"items": [{"item_id": item_id, "text": other}]}
        event = {"user_id": random.choice(work["users"]), "item_id": item_id, "time": time.time()}
        yield "/v1/events", {"events": [event]}


def measure(host: str, work: dict[str, Any]) -> dict[str, Any]:
    """Lets all clients loose for as long as the work says; returns what came back."""
    notes = Notes(work)
    kinds = clients_of(notes)
    environment = Environment(
        user_classes=list(kinds), events=events, host=host, stop_timeout=TIMEOUT_S
    )
    runner = environment.create_local_runner()
    runner.start(work["num_clients"] + len(kinds) - 1, spawn_rate=1000)
    gevent.sleep(work["warm_up_s"])
    environment.stats.reset_all()
    began, path = time.monotonic(), ALONE if work["per_request"] == 1 else TOGETHER
    gevent.sleep(work["seconds"])
    seconds, own = time.monotonic() - began, environment.stats.get(path, "POST")
    result = {
        "requests": own.num_requests,
        "per_s": own.num_requests * work["per_request"] / seconds,
        "p50_ms": own.get_response_time_percentile(0.5) or 0,
        "p99_ms": own.get_response_time_percentile(0.99) or 0,
    }
    runner.quit()  # once everybody has what they asked for
    return result | {
        "failures": notes.failures + [one["msg"] for one in runner.exceptions.values()],
        "num_differing": notes.num_differing,
        "num_stale": notes.num_stale,
        "answers": [[*key, items] for key, items in notes.answers.items()],
        "acknowledged": notes.acknowledged,
        "idle": [kind.__name__ for kind in kinds if not notes.acted[kind.__name__]],
    }


def main() -> None:
    """Asks for as long as it should, then writes what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result = measure(args.host, json.loads(args.work.read_text()))
    if result["idle"]:
        sys.exit(f"{', '.join(result['idle'])}: did nothing. {result['failures'][:3]}")
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
