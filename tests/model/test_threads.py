import os

import pytest
import torch

from store_engine.errors import InputError
from store_engine.model import threads
from store_engine.model.threads import choose_threads, environment_threads


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def never(num_threads):
    raise AssertionError("measured")


def test_idle_cores_are_all_used():
    assert choose_threads(measure=lambda n: 8 / n).num_threads == 8
    assert choose_threads(ranks=4, measure=lambda n: 8 / n) == (2, "8 cores / 4 ranks")
    assert choose_threads(ranks=100, measure=never).num_threads == 1


def test_busy_cores_are_left_alone():
    choice = choose_threads(measure=lambda n: 1.0 if n == 1 else 10.0)
    assert choice == (1, "8 cores, which are busy: 8 threads are 10.0 x slower than one")


@pytest.mark.parametrize(
    ("stated", "num_threads"),
    [("3", 3), (" 3 ", 3), ("4,2", 4), ("4, 2", 4), ("1", 1), ("1024", 1024)],
)
def test_the_environment_decides(stated, num_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert choose_threads(ranks=2, measure=never) == (num_threads, "OMP_NUM_THREADS")
    assert choose_threads(5, measure=never) == (5, "as requested")


@pytest.mark.parametrize("stated", ["abc", "0", "-2", "2.5", ",2", "0x4", "1e3", "²"])
def test_what_is_no_number_is_said_and_left_out(stated, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    choice = choose_threads(measure=lambda n: 8 / n)
    assert choice.num_threads == 8
    assert choice.reason == f"OMP_NUM_THREADS={stated!r} is no number of threads; 8 cores"


@pytest.mark.parametrize("stated", ["", " "])
def test_an_empty_environment_says_nothing(stated, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert environment_threads() == (0, "")


@pytest.mark.parametrize("requested", [100_000, 1025, -1])
def test_threads_that_would_crash_are_refused(requested, monkeypatch):
    with pytest.raises(InputError, match=r"must be in \[1, 1,024\]"):
        choose_threads(requested)
    if requested > 0:
        monkeypatch.setenv("OMP_NUM_THREADS", str(requested))
        with pytest.raises(InputError, match="OMP_NUM_THREADS must be in"):
            choose_threads()


def test_the_measurement_leaves_the_threads_as_they_were(monkeypatch):
    monkeypatch.setattr(threads, "_MEASURED_S", 0.0)
    before = torch.get_num_threads()
    assert threads._measure(1) > 0
    assert torch.get_num_threads() == before
