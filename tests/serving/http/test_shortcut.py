"""The short way of a question: what it answers is what FastAPI's way answers."""

import json

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'store-engine[serve]'")
pytest.importorskip(
    "prometheus_client", reason="Ray Serve is not installed: pip install 'store-engine[serve]'"
)

from one_engine import HISTORY, error_of

from store_engine.serving.http.shortcut import Endpoint, Shortcut

SHORT = {"Content-Type": "application/json"}
LONG = {"Content-Type": "application/json; charset=utf-8"}  # FastAPI reads it alike
ASKED = {"history": HISTORY}


@pytest.fixture
def taken(monkeypatch):
    """The paths of the requests that an endpoint answered the short way, with the status."""
    found, handle = [], Shortcut.__call__

    async def watched(self, scope, receive, send):
        ended = []

        async def noting(message):
            ended.append(message.get("status"))
            await send(message)

        is_long = []

        async def long_way(*arguments):
            is_long.append(True)
            await self.long(*arguments)

        self.long = getattr(self, "long", self._app)
        self._app = long_way
        await handle(self, scope, receive, noting)
        if scope["type"] == "http" and not is_long:
            found.append((scope["path"], ended[0]))

    monkeypatch.setattr(Shortcut, "__call__", watched)
    return found


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/recommend", ASKED, 200),
        ("/v1/recommend", ASKED | {"k": 3, "exclude": ["item 5"], "allow": None}, 200),
        ("/v1/recommend", {"history": ["x"], "unknown": "skip"}, 200),
        ("/v1/recommend/batch", {"requests": [ASKED, ASKED | {"k": 2}, {"history": ["x"]}]}, 200),
        ("/v1/score", ASKED | {"items": ["item 40", "nobody"]}, 200),
        ("/v1/explain", ASKED | {"item_id": "item 40"}, 200),
        ("/v1/items", {"items": [{"item_id": "n/1", "text": {"title": "Ü \u2028"}}]}, 201),
        ("/v1/items/remove", {"item_ids": ["item 9"]}, 200),
        ("/v1/recommend", {"history": ["x"]}, 422),  # the engine's refusal
        ("/v1/recommend", ASKED | {"k": 1000}, 422),  # the server's
    ],
    ids=lambda value: str(value)[:50],
)
def test_both_ways_answer_alike(serve, taken, path, body, status):
    client, content = serve(), json.dumps(body)
    short = client.post(path, content=content, headers=SHORT)
    assert taken == [(path, status)]
    long = client.post(path, content=content, headers=LONG)
    assert len(taken) == 1
    assert (short.status_code, short.json()) == (long.status_code, long.json())
    names = ("content-type", "content-length")
    assert [short.headers[name] for name in names] == [long.headers[name] for name in names]


@pytest.mark.parametrize(
    "content",
    [
        b'{"history": [], "k": 3.0}',
        b'{"history": [], "k": 1e0}',
        b'{"history": [], "k": "3"}',
        b'{"history": [], "k": true}',
        b'{"history": null}',
        b'{"history": ["\\ud800"]}',
        b'{"history": ["\xff"]}',
        b'{"history": []}}',
        b'{"history": [], "k": 1%s}' % (b"0" * 5000),
        b"",
    ],
    ids=str,
)
def test_what_is_wrong_is_wrong_either_way(serve, taken, content):
    client = serve()
    short, long = (
        client.post("/v1/recommend", content=content, headers=headers) for headers in (SHORT, LONG)
    )
    assert (short.status_code, short.json()) == (long.status_code, long.json())
    assert short.status_code in (400, 422)
    assert taken == []


def test_a_failure_is_told_and_then_raised_for_the_log():
    async def fail(asked):
        raise RuntimeError("secret")

    class Nothing:
        @staticmethod
        def model_validate_json(body):
            return body

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x"}
    scope["headers"] = [(b"content-type", b"application/json")]
    call = Shortcut(None, {"/x": Endpoint(fail, Nothing, 200)})(scope, receive, send)
    with pytest.raises(RuntimeError, match="secret"):
        call.send(None)
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]


def test_many_requests_are_answered_each(serve):
    client = serve()
    asked = [ASKED, {"history": ["x"]}, ASKED | {"k": 2}, {"user": "nobody", "unknown": "skip"}]
    answer = client.post("/v1/recommend/batch", json={"requests": asked})
    answers = answer.json()["answers"]
    alone = [client.post("/v1/recommend", json=one).json() for one in asked]
    assert [one["error"]["message"] if "error" in one else one for one in answers] == [
        one["error"]["message"] if "error" in one else one for one in alone
    ]
    assert ["error" in one for one in answers] == [False, True, False, False]


@pytest.mark.parametrize(
    ("settings", "requests", "status", "message"),
    [
        ({}, [], 422, "the request is not valid"),
        ({"max_requests": 2}, [ASKED] * 3, 422, "requests must be at most 2 on this server, got 3"),
        ({"max_waiting": 2}, [ASKED] * 3, 422, "requests must be at most 2 on this server, got 3"),
        ({}, [ASKED, ASKED | {"k": 1000}], 422, "k must be at most 100"),
        ({}, [ASKED, ASKED | {"timeout_ms": 5}], 422, "the request is not valid"),  # it has one
    ],
    ids=["none", "limit", "places", "limit of one", "deadline"],
)
def test_many_requests_have_limits(serve, settings, requests, status, message):
    answer = serve(**settings).post("/v1/recommend/batch", json={"requests": requests})
    assert message in error_of(answer, status)["message"]
