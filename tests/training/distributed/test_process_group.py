import datetime
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import DistNetworkError, DistStoreError

from store_engine.errors import InputError
from store_engine.training.distributed.process_group import (
    StopRequest,
    launched_rank,
    wait_for_first,
)

ROOT = Path(__file__).parents[3]


def test_a_rank_ends_without_pythons_teardown():
    code = "import atexit; from store_engine.training.distributed.process_group import exit_rank\n"
    code += "atexit.register(print, 'torn down'); print('said', end=''); exit_rank(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert "said" in done.stdout
    assert "torn down" not in done.stdout


LAUNCHED = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_the_rank_is_the_launchers(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert launched_rank() == 0
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MASTER_PORT", None, "RANK but not MASTER_PORT"),
        ("WORLD_SIZE", None, "RANK but not WORLD_SIZE"),
        ("RANK", "one", "RANK must be a whole number"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE must be a whole number"),
        ("MASTER_PORT", "", "MASTER_PORT must be a whole number"),
    ],
)
def test_half_a_launcher_is_one_line(name, value, message, monkeypatch):
    for key, good in (LAUNCHED | {name: value}).items():
        monkeypatch.delenv(key, raising=False)
        if good is not None:
            monkeypatch.setenv(key, good)
    with pytest.raises(InputError, match=message):
        launched_rank()


JOIN = """
from store_engine.errors import InputError
from store_engine.training.distributed.process_group import exit_rank, process_group
try:
    with process_group():
        print("joined")
except InputError as error:
    print(error)
exit_rank(0)
"""


@pytest.mark.slow
def test_a_taken_port_is_one_line_or_another_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        alone = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
        alone |= {"MASTER_PORT": port}
        launched = alone | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        launched |= {"MASTER_ADDR": "127.0.0.1"}
        outputs = []
        for environment in (alone, launched):
            done = subprocess.run(
                [sys.executable, "-c", JOIN], env=environment, capture_output=True, text=True,
                timeout=200,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            outputs.append(done.stdout.splitlines()[-1])
    assert outputs[0] == "joined"
    assert outputs[1].startswith(f"port {port} is taken")
    assert "--master_port" in outputs[1]


class Store:
    """Answers a wait with what it is told to."""

    def __init__(self, *answers):
        self.answers, self.keys = list(answers), []

    def wait(self, keys, timeout):
        assert isinstance(timeout, datetime.timedelta)
        self.keys += keys
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer

    def set(self, key, value):
        self.keys.append(key)


@pytest.fixture
def rank(monkeypatch):
    def become(rank):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)

    return become


def test_the_others_wait_for_the_first_however_long_it_takes(rank):
    rank(1)
    store = Store(*[DistStoreError("timeout")] * 50, None)
    wait_for_first("here", store)
    assert store.keys == ["here"] * 51
    rank(0)
    wait_for_first("there", store)
    assert store.keys[-1] == "there"


def test_nobody_waits_for_a_rank_that_is_gone(rank):
    rank(1)
    with pytest.raises(DistNetworkError):
        wait_for_first("here", Store(DistStoreError("timeout"), DistNetworkError("closed")))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_is_remembered_until_the_step_is_over(signum):
    before = signal.getsignal(signal.SIGINT)  # ignored, if the tests run in the background
    with StopRequest() as stop:
        assert not stop.is_asked()
        os.kill(os.getpid(), signum)
        assert stop.is_asked()
        if signum == signal.SIGINT:  # pressed again: at once
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signum)
    assert signal.getsignal(signal.SIGINT) is before
