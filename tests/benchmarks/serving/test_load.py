"""The clients of benchmarks/serve.py against a server that only counts."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("locust", reason="locust is not installed")

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "serving" / "load.py"
CHANGES = {"/v1/items", "/v1/items/update", "/v1/items/remove", "/v1/events"}
WORK = {
    "questions": [{"history": ["a"]}, {"user": "anna"}],
    "items": [["a", {"title": "A"}], ["b", {"title": "B"}]],
    "users": ["anna"],
    "k": 1,
    "per_request": 1,
    "num_clients": 2,
    "seconds": 2.0,
    "warm_up_s": 0.5,
    "changes_per_s": 20,
}


class Counting(BaseHTTPRequestHandler):
    """Answers every question alike, and every change with the next number."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.mutex:
            server.counts[self.path] = server.counts.get(self.path, 0) + 1
            is_change = self.path in CHANGES
            server.sequence += is_change
            sequence = server.sequence if is_change else server.sequence - server.behind
            answer = {"items": [{"item_id": "a", "score": -1.0}], "visible": True}
            answer |= {"sequence": sequence}
            if self.path == "/v1/recommend/batch":
                answer = {"answers": [answer] * len(json.loads(asked)["requests"])}
            body = json.dumps(answer).encode()
        self.send_response(server.statuses.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        server.mutex, server.counts, server.sequence = threading.Lock(), {}, 0
        server.statuses, server.behind = {}, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def load(server, tmp_path, **work):
    (tmp_path / "work.json").write_text(json.dumps(WORK | work))
    command = [sys.executable, SCRIPT, "--host", f"http://127.0.0.1:{server.server_port}"]
    command += ["--work", tmp_path / "work.json", "--out", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    out = tmp_path / "out.json"
    return done, json.loads(out.read_text()) if out.exists() else None


def test_every_kind_of_client_acts_and_nothing_is_cut_off(server, tmp_path):
    done, told = load(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert told["failures"] == []
    assert (told["num_differing"], told["num_stale"]) == (0, 0)
    assert {path for _, path, _ in told["acknowledged"]} == CHANGES
    changes = sum(count for path, count in server.counts.items() if path in CHANGES)
    assert [sequence for sequence, _, _ in told["acknowledged"]] == [*range(1, changes + 1)]
    assert 0 < told["requests"] <= server.counts["/v1/recommend"]


def test_a_quiet_catalogue_is_not_changed(server, tmp_path):
    done, told = load(server, tmp_path, changes_per_s=0)
    assert (done.returncode, told["acknowledged"]) == (0, [])
    assert set(server.counts) == {"/v1/recommend"}


def test_many_questions_of_one_request_are_counted_each(server, tmp_path):
    done, told = load(server, tmp_path, changes_per_s=0, per_request=2)
    assert (done.returncode, told["failures"]) == (0, [])
    assert set(server.counts) == {"/v1/recommend/batch"}
    assert sorted(number for number, _, _ in told["answers"]) == [0, 1]
    assert told["per_s"] == pytest.approx(2 * told["requests"] / WORK["seconds"], rel=0.2)


def test_a_kind_of_client_that_does_nothing_ends_it_badly(server, tmp_path):
    done, told = load(server, tmp_path, num_clients=0)
    assert (done.returncode, told) == (1, None)
    assert "Asker: did nothing" in done.stderr


def test_what_fails_is_told(server, tmp_path):
    server.statuses["/v1/items/update"] = 503
    done, told = load(server, tmp_path)
    assert (done.returncode, told["num_stale"]) == (0, 0)
    assert told["failures"]
    assert all(one.startswith("/v1/items/update 503") for one in told["failures"])


def test_answers_that_lack_a_visible_change_are_counted(server, tmp_path):
    server.behind = 1
    _, told = load(server, tmp_path)
    assert told["num_stale"] > 0
