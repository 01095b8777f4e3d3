import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'store-engine[serve]'")
pytest.importorskip(
    "prometheus_client", reason="Ray Serve is not installed: pip install 'store-engine[serve]'"
)

from one_engine import HISTORY, error_of, ids, until


def test_a_time_limit_of_any_size_is_the_servers_at_most(serve):
    body = '{"history": ["item 3"], "timeout_ms": 1%s}' % ("0" * 400)
    headers = {"content-type": "application/json"}
    assert len(ids(serve().post("/v1/recommend", content=body, headers=headers))) == 10


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
