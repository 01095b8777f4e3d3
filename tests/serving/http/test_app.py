import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'store-engine[serve]'")
pytest.importorskip(
    "prometheus_client", reason="Ray Serve is not installed: pip install 'store-engine[serve]'"
)

from one_engine import HISTORY, error_of, ids, until


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
