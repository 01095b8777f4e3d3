"""`store-engine serve` as a user starts it: one server, put through all that may happen to it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'store-engine[serve]'")

from live_runs import make_run

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError

pytestmark = pytest.mark.slow
HISTORY = ["item 3", "item 7"]
NEW = {"item_id": "new 1", "text": {"title": "red teapot", "brand": "brand 3"}}


class Server:
    def __init__(self, run_dir, log, *options):
        command = [sys.executable, "-m", "store_engine", "serve", str(run_dir), "--port", "0"]
        env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        env.pop("RAY_ADDRESS", None)
        self._log = log
        self.process = subprocess.Popen([*command, *options], stderr=log.open("wb"), env=env)
        said = self._found(r"its Ray cluster: (.+)")
        self.cluster = dict(one.split("=", 1) for one in said.split())
        self.url = self._found(r"serving at (http://\S+),")

    def _found(self, pattern):
        while (found := re.search(pattern, self._log.read_text())) is None:
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.2)
        return found[1]

    def lines(self):
        return self._log.read_text().splitlines()

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def recommend(self, k=10):
        answer = self.ask("/v1/recommend", {"history": HISTORY, "k": k})
        return [item["item_id"] for item in answer["items"]], answer

    def status_of(self, path, body):
        try:
            self.ask(path, body)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def processes(self, wanted):
        """Process ids of this server's actors with a part in their name."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                name, session = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            except OSError:
                continue
            if wanted in name and str(self._log).encode() in session:
                found.append(int(path.name))
        return found


@contextmanager
def asking_all_the_time(server):
    """Threads that ask without a pause; gives a list of (status or error, run)."""
    answers, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            try:
                answers.append((200, server.recommend()[1]["run"]))
            except Exception as error:
                answers.append((repr(error), ""))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def until(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("STORE_ENGINE_TEST_LOG", str(log))  # by which its processes are known
    run_dir = make_run(tmp_path / "run")
    server = Server(run_dir, log, "--replicas", "2", "--timeout-s", "60", "--drain-s", "60")
    yield server
    server.process.terminate()
    try:
        server.process.wait(60)
    finally:
        server.process.kill()


def test_a_server_from_its_start_to_its_end(server, tmp_path):
    _only_its_own_lines_are_shown(server)
    _answers_as_the_engine(server, tmp_path)
    _changes_are_seen_by_every_replica(server)
    _a_lost_replica_costs_no_request(server)
    _a_new_run_costs_no_request(server, tmp_path)
    _a_lost_owner_goes_on_where_it_was(server)
    _what_was_begun_is_answered(server)
    _changes_are_there_after_a_restart(tmp_path)


def _only_its_own_lines_are_shown(server):
    lines = server.lines()
    ours = r"(checking|starting|loading) .*: \d+ s|its Ray cluster: .*|serving at .*"
    assert [line for line in lines if not re.fullmatch(ours, line)] == []
    assert any(
        re.fullmatch(r"loading .*, \d of 2 replica\(s\) are ready: \d+ s", one) for one in lines
    )


def _answers_as_the_engine(server, tmp_path):
    (want,) = Engine.load(tmp_path / "run", journal=False).recommend([HISTORY])
    assert server.recommend()[0] == [item.item_id for item in want]
    status = server.ask("/ready")
    assert (status["status"], len(status["replicas"])) == ("ok", 2)


def _changes_are_seen_by_every_replica(server):
    best = server.recommend()[0][0]
    gone = server.ask("/v1/items/remove", {"item_ids": [best]})
    assert gone == {"sequence": 1, "visible": True}
    for _ in range(20):  # both replicas
        found, answer = server.recommend(60)
        assert best not in found
        assert answer["sequence"] == 1
    added = server.ask("/v1/items", {"items": [NEW]})
    assert (added["sequence"], len(added["items"][0]["sid"])) == (2, 3)
    for _ in range(20):
        assert "new 1" in server.recommend(60)[0]
    _histories_grow_in_every_replica(server)


def _histories_grow_in_every_replica(server):
    text = {"title": "red teapot, large", "brand": "brand 3"}
    server.ask("/v1/items/update", {"items": [{"item_id": "new 1", "text": text}]})
    events = [
        {"user_id": "dora", "item_id": item, "time": time}
        for time, item in enumerate([*HISTORY, "new 1"])
    ]
    assert server.ask("/v1/events", {"events": events}) == {
        "sequence": 4, "visible": True, "num_skipped": 0,
    }  # fmt: skip
    want = server.ask("/v1/recommend", {"history": [*HISTORY, "new 1"]})
    for _ in range(20):
        assert server.ask("/v1/recommend", {"user": "dora"}) == want
    asked = [{"user": "dora"}, {"history": [*HISTORY, "new 1"]}, {"user": "nobody"}]
    *same, refused = server.ask("/v1/recommend/batch", {"requests": asked})["answers"]
    assert same == [want, want]
    assert "unknown user" in refused["error"]["message"]
    why = server.ask("/v1/explain", {"user": "dora", "item_id": "item 9"})
    assert [one["item_id"] for one in why["history"]] == [*HISTORY, "new 1"]


def _a_lost_replica_costs_no_request(server):
    with asking_all_the_time(server) as answers:
        time.sleep(1)
        os.kill(server.processes(b"store_engine:engines")[0], signal.SIGKILL)
        num = len(answers)
        until(lambda: len(answers) > num + 50)
        until(lambda: len(server.ask("/ready")["replicas"]) == 2)
    assert set(answers) == {(200, "run")}
    assert [one["sequence"] for one in server.ask("/ready")["replicas"]] == [4, 4]


def _a_new_run_costs_no_request(server, tmp_path):
    newer = make_run(tmp_path / "newer")
    command = [sys.executable, "-m", "store_engine", "serve", str(newer), "--reload"]
    env = os.environ | server.cluster
    with asking_all_the_time(server) as answers:
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        until(lambda: {one["run"] for one in server.ask("/ready")["replicas"]} == {"newer"})
        num = len(answers)
        until(lambda: len(answers) > num + 20)
    assert {status for status, _ in answers} == {200}
    assert answers[-1] == (200, "newer")
    assert "new 1" in server.recommend(60)[0]  # it was carried over, like dora's events
    why = server.ask("/v1/explain", {"user": "dora", "item_id": "item 9"})
    assert [one["item_id"] for one in why["history"]] == [*HISTORY, "new 1"]
    again = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (again.returncode, "is served already" in again.stderr) == (2, True)


def _a_lost_owner_goes_on_where_it_was(server):
    sequence = server.ask("/ready")["sequence"]
    (owner,) = server.processes(b"store_engine:owner")
    with asking_all_the_time(server) as answers:
        os.kill(owner, signal.SIGKILL)
        until(lambda: server.status_of("/v1/items/remove", {"item_ids": ["new 1"]}) == 200)
    assert set(answers) == {(200, "newer")}
    assert server.ask("/ready")["sequence"] == sequence + 1
    until(lambda: "new 1" not in server.recommend(60)[0])


def _what_was_begun_is_answered(server):
    with asking_all_the_time(server) as answers:
        time.sleep(0.5)
        num = len(answers)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
    begun = [status for status, _ in answers[num:] if status == 200]
    refused = [status for status, _ in answers[num:] if status != 200]
    assert len(begun) >= 1
    assert all("refused" in status or "reset" in status for status in refused), set(refused)


def _changes_are_there_after_a_restart(tmp_path):
    assert Engine.load(tmp_path / "run").has_items(["new 1"]) == [True]
    assert Engine.load(tmp_path / "newer").has_items(["new 1"]) == [False]


def test_a_serve_config_makes_the_same_application(tmp_path):
    from ray import serve

    from store_engine.serving.cluster.application import build

    assert isinstance(build({"run": "/runs/current", "replicas": 2}), serve.Application)
    for wrong in ({}, {"run": 5}, {"run": "r", "workers": 2}, {"run": "r", "replicas": 0}):
        with pytest.raises(InputError):
            build(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "serve.port must be in [0, 65535], got 70000"),
        (["--replicas", "0"], "serve.replicas must be in"),
        (["--token-file", "/no/file"], "/no/file: No such file"),
        (["--device", "cuda:9"], "cuda"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, options, message):
    command = [sys.executable, "-m", "store_engine", "serve", str(make_run(tmp_path / "run"))]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
