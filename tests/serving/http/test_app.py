import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'store-engine[serve]'")
pytest.importorskip(
    "prometheus_client", reason="Ray Serve is not installed: pip install 'store-engine[serve]'"
)

from starlette.testclient import TestClient

from store_engine.errors import InputError
from store_engine.serving.http.app import make_app
from store_engine.serving.http.batcher import Batcher
from store_engine.serving.http.messages import (
    AddEventsResponse,
    ChangeResponse,
    ItemSid,
    ItemsResponse,
    ReplicaStatus,
    StatusResponse,
)
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.service import EngineService
from store_engine.serving.settings import ServeSettings


class OneEngine:
    """A backend of this process, with random weights; changes of items are only noted down."""

    def __init__(self, engine, settings, metrics):
        self.engine, self.changes = engine, []
        self._service = EngineService(engine, "tiny", 7)
        self._thread = ThreadPoolExecutor(1)
        self._batcher = Batcher(self._serve, settings.max_batch, settings.max_waiting, 1, metrics)
        self.before = lambda: None  # runs in the engine's thread before each batch
        self.is_ready = True

    async def _serve(self, queries, deadline):
        def answer():
            self.before()
            return self._service.answer(queries)

        return await asyncio.get_running_loop().run_in_executor(self._thread, answer)

    def close(self):
        self._thread.shutdown()

    async def answer(self, query, deadline):
        return await self._batcher.ask(query, deadline)

    async def add_items(self, items):
        if items[0][0] == "item 1":
            raise InputError("item 'item 1' is in the catalogue already")
        self.changes.append(items)
        return self._of(items)

    async def update_items(self, items):
        if items[0][0] != "item 1":
            raise InputError(f"unknown item id {items[0][0]!r}")
        self.changes.append(items)
        return self._of(items)

    def _of(self, items):
        read = [ItemSid(item_id=item_id, sid=[1, 2, 3]) for item_id, _ in items]
        return ItemsResponse(sequence=8, visible=True, items=read)

    async def add_events(self, events, unknown):
        num_skipped = self.engine.add_events(events, unknown=unknown)
        return AddEventsResponse(sequence=10, visible=True, num_skipped=num_skipped)

    async def remove_items(self, item_ids):
        self.changes.append(item_ids)
        return ChangeResponse(sequence=9, visible=False)

    async def status(self):
        state = "ok" if self.is_ready else "not ready"
        replica = ReplicaStatus(replica="a", run="tiny", sequence=7)
        return StatusResponse(status=state, run="tiny", sequence=7, replicas=[replica])


@pytest.fixture
def serve(make_engine):
    """serve(**settings) -> a client, with the backend as `.backend`."""
    clients = []

    def start(**settings):
        settings, metrics = ServeSettings(**settings), Metrics()
        backend = OneEngine(make_engine(), settings, metrics)
        app = make_app(backend, settings, metrics)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()  # one event loop for all requests
        client.backend = backend
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
        client.backend.close()


HISTORY = ["item 3", "item 1"]


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_a_time_limit_of_any_size_is_the_servers_at_most(serve):
    body = '{"history": ["item 3"], "timeout_ms": 1%s}' % ("0" * 400)
    headers = {"content-type": "application/json"}
    assert len(ids(serve().post("/v1/recommend", content=body, headers=headers))) == 10


def until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, {}),
        ({"k": 3}, {"k": 3}),
        ({"k": 5, "beam_width": 50}, {"k": 5, "beam_width": 50}),
        ({"exclude_history": True, "k": 60}, {"exclude_history": True, "k": 60}),
        ({"exclude": ["item 5", "nobody"]}, {"exclude": [["item 5"]]}),
    ],
    ids=str,
)
def test_recommends_what_the_engine_does(serve, options, same):
    client = serve()
    answer = client.post("/v1/recommend", json={"history": HISTORY, **options})
    (want,) = client.backend.engine.recommend([HISTORY], **same)
    assert ids(answer) == [item.item_id for item in want]
    assert [one["score"] for one in answer.json()["items"]] == [item.score for item in want]
    assert (answer.json()["run"], answer.json()["sequence"]) == ("tiny", 7)


def test_allow_is_the_requests_own(serve):
    client = serve()
    allowed = client.post("/v1/recommend", json={"history": HISTORY, "allow": ["item 9", "item 4"]})
    assert sorted(ids(allowed)) == ["item 4", "item 9"]
    assert ids(client.post("/v1/recommend", json={"history": HISTORY, "allow": []})) == []
    assert ids(client.post("/v1/recommend", json={"history": HISTORY, "allow": ["nobody"]})) == []
    assert len(ids(client.post("/v1/recommend", json={"history": HISTORY}))) == 10


def test_scores_are_those_of_the_whole_catalogue(serve):
    client = serve()
    engine = client.backend.engine
    items = ["item 40", "item 3", "item 40", "nobody", "item 59"]
    answer = client.post("/v1/score", json={"history": HISTORY, "items": items}).json()
    (scores,) = engine.score_rows([[3, 1]])
    assert [one["item_id"] for one in answer["items"]] == items
    for one in answer["items"]:
        if one["item_id"] == "nobody":
            assert (one["score"], one["logprob"]) == (None, None)
        else:
            assert one["logprob"] == pytest.approx(scores[int(one["item_id"][5:])], abs=1e-4)


def test_a_removed_item_has_no_score(serve):
    client = serve()
    client.backend.engine.remove_items(["item 40"])
    answer = client.post(
        "/v1/score", json={"history": ["item 40"], "items": ["item 40", "item 41"]}
    )
    assert [one["score"] is None for one in answer.json()["items"]] == [True, False]


def test_unknown_items_of_a_history(serve):
    client = serve()
    error = error_of(client.post("/v1/recommend", json={"history": ["x"]}), 422)
    assert error["message"].startswith("history: unknown item id 'x'")
    left = client.post("/v1/recommend", json={"history": ["x", *HISTORY], "unknown": "skip"})
    assert ids(left) == ids(client.post("/v1/recommend", json={"history": HISTORY}))
    assert left.json()["unknown"] == ["x"]


def test_requests_of_all_kinds_share_batches_and_keep_their_answers(serve):
    client = serve(max_batch=64, timeout_s=600.0)
    questions = [
        {"history": [f"item {i}"], "k": 1 + i % 4, "allow": [f"item {j}" for j in range(i, 60)]}
        for i in range(40)
    ]
    alone = [client.post("/v1/recommend", json=one).json() for one in questions]
    gate = threading.Event()
    client.backend.before = gate.wait
    with ThreadPoolExecutor(41) as pool:
        futures = [pool.submit(client.post, "/v1/recommend", json=one) for one in questions]
        bad = pool.submit(client.post, "/v1/recommend", json={"history": ["x"]})
        until(lambda: "\nstore_engine_waiting 40.0\n" in client.get("/metrics").text)
        gate.set()
        assert [future.result().json() for future in futures] == alone
        error_of(bad.result(), 422)
    metrics = client.get("/metrics").text
    sizes = [line for line in metrics.splitlines() if line.startswith("store_engine_batch_size_")]
    batches = next(float(line.split()[1]) for line in sizes if "count" in line)
    assert batches == 42  # 40 of them alone, one that kept the others waiting, and these


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body"),
        ({"history": [], "user": "anna"}, "body"),
        ({"history": None}, "body"),
        ({"user": ""}, "body.user"),
        ({"user": 1}, "body.user"),
        ({"history": "item 1"}, "body.history"),
        ({"history": [1]}, "body.history.0"),
        ({"history": [""]}, "body.history.0"),
        ({"history": [None]}, "body.history.0"),
        ({"history": ["x" * 1001]}, "body.history.0"),
        ({"history": ["\ud800"]}, "body.history.0"),
        ({"history": [], "k": 0}, "body.k"),
        ({"history": [], "k": 1.0}, "body.k"),
        ({"history": [], "k": "10"}, "body.k"),
        ({"history": [], "k": True}, "body.k"),
        ({"history": [], "beam": 5}, "body.beam"),
        ({"history": [], "exclude_history": "yes"}, "body.exclude_history"),
        ({"history": [], "timeout_ms": 0}, "body.timeout_ms"),
        ({"history": [], "unknown": "ignore"}, "body.unknown"),
        ([], "body"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_types_are_not_guessed(serve, body, where):
    answer = serve().post(
        "/v1/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert error_of(answer, 422)["details"][0]["where"] == where


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b'{"history": [], "k": 1e999}', b"\xff\xfe", b"9" * 5000, b"NaN"],
    ids=["empty", "cut", "deep", "infinite", "utf-16", "digits", "nan"],
)
def test_what_is_no_json_is_refused(serve, content):
    answer = serve().post(
        "/v1/recommend", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 101}, "k must be at most 100 on this server, got 101"),
        ({"beam_width": 1001}, "beam_width must be at most 1,000"),
        ({"beam_width": 2}, "beam_width must be at least k, got 2 < 10"),
        ({"history": ["item 1"] * 1001}, "history must have at most 1,000 entries"),
        ({"exclude": ["item 1"] * 1001}, "exclude must have at most 1,000 entries"),
        ({"allow": ["item 1"] * 1001}, "allow must have at most 1,000 entries"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_limits(serve, body, message):
    error = error_of(serve().post("/v1/recommend", json={"history": [], **body}), 422)
    assert message in error["message"]


EVENTS = [
    {"user_id": "dora", "item_id": "item 1", "time": 20},
    {"user_id": "dora", "item_id": "item 3", "time": 10.5},
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"k": 5, "exclude_history": True}),
        ("/v1/score", {"items": ["item 40", "item 3"]}),
        ("/v1/explain", {"item_id": "item 40"}),
    ],
    ids=["recommend", "score", "explain"],
)
def test_a_user_is_their_history(serve, path, body):
    client = serve()
    added = client.post("/v1/events", json={"events": EVENTS})
    assert (added.status_code, added.json()["num_skipped"]) == (201, 0)
    by_user = client.post(path, json={"user": "dora", **body})
    assert by_user.status_code == 200, by_user.text
    assert by_user.json() == client.post(path, json={"history": HISTORY, **body}).json()
    nobody = error_of(client.post(path, json={"user": "eve", **body}), 422)
    assert nobody["message"] == "unknown user id 'eve'"
    skipped = client.post(path, json={"user": "eve", "unknown": "skip", **body}).json()
    empty = client.post(path, json={"history": [], **body}).json()
    assert skipped == empty | {"unknown": ["eve"]}


def test_histories_grow(serve):
    client, grown = serve(), {"user": "dora", "exclude_history": True}
    client.post("/v1/events", json={"events": EVENTS})
    best = ids(client.post("/v1/recommend", json=grown))[0]
    event = {"user_id": "dora", "item_id": best, "time": 30}
    client.post("/v1/events", json={"events": [event]})
    after = ids(client.post("/v1/recommend", json=grown))
    assert after == ids(
        client.post("/v1/recommend", json={"history": [*HISTORY, best], "exclude_history": True})
    )
    assert best not in after


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ({"time": float("nan")}, "body.events.0.time"),
        ({"time": float("inf")}, "body.events.0.time"),
        ({"time": "now"}, "body.events.0.time"),
        ({"time": True}, "body.events.0.time"),
        ({"time": 10**400}, "body.events.0.time"),
        ({"user_id": ""}, "body.events.0.user_id"),
        ({"item_id": 1}, "body.events.0.item_id"),
        ({"rating": 5}, "body.events.0.rating"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_event_that_is_none_is_refused(serve, event, where):
    body = json.dumps({"events": [EVENTS[0] | event]})
    answer = serve().post("/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert error_of(answer, 422)["details"][0]["where"] == where


def test_events_of_unknown_items(serve):
    client = serve()
    events = [*EVENTS, {"user_id": "dora", "item_id": "x", "time": 1}]
    error = error_of(client.post("/v1/events", json={"events": events}), 422)
    assert error["message"].startswith("events[2]: unknown item id 'x'")
    answer = client.post("/v1/events", json={"events": events, "unknown": "skip"})
    assert answer.json() == {"sequence": 10, "visible": True, "num_skipped": 1}
    many = error_of(client.post("/v1/events", json={"events": EVENTS * 501}), 422)
    assert many["message"].startswith("events must have at most 1,000 entries")


def test_why_is_what_the_engine_says(serve):
    client = serve()
    answer = client.post("/v1/explain", json={"history": HISTORY, "item_id": "item 40"}).json()
    why = client.backend.engine.explain(HISTORY, "item 40")
    assert (answer["item_id"], tuple(answer["sid"])) == (why.item_id, why.sid)
    for name in ("score", "logprob", "evidence"):
        assert answer[name] == pytest.approx(getattr(why, name), abs=1e-4)
    assert [one["item_id"] for one in answer["history"]] == HISTORY
    for told, one, share in zip(answer["history"], why.history, why.shares, strict=True):
        assert told["logprob_gain"] == pytest.approx(one.logprob_gain, abs=1e-4)
        assert (told["evidence"], told["share"]) == (one.evidence, share)
        assert told["shared_codes"] == one.shared_codes
    error = error_of(client.post("/v1/explain", json={"history": [], "item_id": "x"}), 422)
    assert error["message"].startswith("unknown item id 'x'")


def test_paths_and_methods(serve):
    client = serve()
    assert error_of(client.get("/v1/recommend"), 405)["type"] == "method_not_allowed"
    assert error_of(client.get("/nowhere"), 404)["type"] == "not_found"
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    for path in (path for path in paths if path.startswith("/v1/")):
        client.post(path, json={})
        assert f'path="{path}"' in client.get("/metrics").text  # and not "other"


def test_ready_tells_of_the_replicas(serve):
    client = serve()
    assert client.get("/ready").json()["replicas"] == [
        {"replica": "a", "run": "tiny", "sequence": 7}
    ]
    client.backend.is_ready = False
    assert client.get("/ready").status_code == 503


def test_items_are_added_removed_and_updated(serve):
    client = serve()
    items = [{"item_id": "n/1", "text": {"title": "New"}}]
    answer = client.post("/v1/items", json={"items": items})
    assert answer.status_code == 201
    assert answer.json() == {
        "sequence": 8, "visible": True, "items": [{"item_id": "n/1", "sid": [1, 2, 3]}],
        "remarks": [],
    }  # fmt: skip
    gone = client.post("/v1/items/remove", json={"item_ids": ["n/1"]})
    assert gone.json() == {"sequence": 9, "visible": False}
    anew = [{"item_id": "item 1", "text": {"title": "Other"}}]
    updated = client.post("/v1/items/update", json={"items": anew})
    assert updated.json() == answer.json() | {"items": [{"item_id": "item 1", "sid": [1, 2, 3]}]}
    changes = [[("n/1", {"title": "New"})], ["n/1"], [("item 1", {"title": "Other"})]]
    assert client.backend.changes == changes
    error_of(client.post("/v1/items/update", json={"items": items}), 422)
    error_of(client.post("/v1/items", json={"items": []}), 422)
    again = {"items": [{"item_id": "item 1", "text": {}}]}
    assert "already" in error_of(client.post("/v1/items", json=again), 422)["message"]


def test_the_token_is_asked_for(serve):
    client = serve(token="0123456789abcdef")
    body = {"history": HISTORY}
    for headers in (
        {},
        {"Authorization": "Bearer 0123456789abcdeF"},
        {"Authorization": "Basic 0123456789abcdef"},
        {"Authorization": "Bearer"},
        {"Authorization": b"Bearer \xff\xe9"},
    ):
        answer = client.post("/v1/recommend", json=body, headers=headers)
        assert error_of(answer, 401)["type"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/redoc", headers=headers).status_code == 401
    right = {"Authorization": "bearer 0123456789abcdef"}
    assert len(ids(client.post("/v1/recommend", json=body, headers=right))) == 10
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_a_body_has_a_limit_stated_or_not(serve):
    client = serve(max_body_bytes=2000)
    big = json.dumps({"history": ["item 1"] * 1000}).encode()
    json_type = {"Content-Type": "application/json"}
    stated = client.post("/v1/recommend", content=big, headers=json_type)
    assert error_of(stated, 413)["type"] == "too_large"
    pieces = (big[i : i + 100] for i in range(0, len(big), 100))
    streamed = client.post("/v1/recommend", content=pieces, headers=json_type)
    assert "content-length" not in streamed.request.headers
    assert error_of(streamed, 413)["type"] == "too_large"
    small = iter([b'{"history":', b' ["item 1"]}'])
    assert len(ids(client.post("/v1/recommend", content=small, headers=json_type))) == 10


def test_too_many_at_once_are_told_when_to_come_back(serve):
    client = serve(max_batch=1, max_waiting=2, timeout_s=600.0)
    gate = threading.Event()
    client.backend.before = gate.wait
    with ThreadPoolExecutor(12) as pool:
        futures = [
            pool.submit(client.post, "/v1/recommend", json={"history": HISTORY}) for _ in range(12)
        ]
        until(lambda: sum(future.done() for future in futures) == 9)
        gate.set()
        answers = [future.result() for future in futures]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 9  # one was served, two waited
    for answer in refused:
        assert error_of(answer, 429)["type"] == "overloaded"
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_deadline_is_kept(serve):
    client = serve(max_batch=4, timeout_s=0.2)
    gate = threading.Event()
    client.backend.before = gate.wait
    try:
        for body in ({"timeout_ms": 50}, {}, {"timeout_ms": 10**6}):
            began = time.monotonic()
            answer = client.post("/v1/recommend", json={"history": HISTORY, **body})
            assert error_of(answer, 504)["type"] == "deadline_passed"
            assert time.monotonic() - began < 2
    finally:
        gate.set()
    for _ in range(100):  # a busy machine may be late again
        if (answer := client.post("/v1/recommend", json={"history": HISTORY})).status_code == 200:
            break
    assert len(ids(answer)) == 10


def test_a_failure_tells_strangers_nothing(serve):
    client = serve()

    def fail():
        raise RuntimeError("secret path /etc")

    client.backend.before = fail
    answer = client.post("/v1/recommend", json={"history": HISTORY})
    assert error_of(answer, 500)["type"] == "internal_error"
    assert "secret" not in answer.text


def test_metrics_count_by_path_and_status(serve):
    client = serve()
    client.post("/v1/recommend", json={"history": HISTORY})
    client.post("/v1/recommend", json={"history": 1})
    for name in ("a", "b"):
        client.get(f"/{name}")
    client.request("BREW", "/health")
    text = client.get("/metrics").text
    for line in (
        'store_engine_requests_total{method="POST",path="/v1/recommend",status="200"} 1.0',
        'store_engine_requests_total{method="POST",path="/v1/recommend",status="422"} 1.0',
        'store_engine_requests_total{method="GET",path="other",status="404"} 2.0',
        'store_engine_requests_total{method="other",path="/health",status="405"} 1.0',
        'store_engine_sequence{replica="a",run="tiny"} 7.0',
        "store_engine_waiting 0.0",
    ):
        assert line in text.splitlines()
