import csv
import subprocess
import sys
from collections import Counter

import pytest
import torch

from benchmarks import startup
from benchmarks.startup import CASES, FLOOR, NOTHING, start


def test_a_process_that_fails_is_not_timed():
    assert start(NOTHING, 1) == ""
    with pytest.raises(subprocess.CalledProcessError):
        start(("-c", "raise SystemExit(3)"), 1)


def test_ten_processes_of_every_provider(tmp_path, monkeypatch):
    out, started = tmp_path / "startup.csv", Counter()

    def pretend(arguments, threads):
        started[arguments] += 1
        return "usage: store-engine VERB"

    monkeypatch.setattr(startup, "start", pretend)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(sys, "argv", ["startup.py", "--cases", "help", "--out", str(out)])
    startup.main()
    warm_up, check = 1, 1
    assert started[CASES["store-engine --help"]] == check + warm_up + 10
    assert started[FLOOR] == started[NOTHING] == warm_up + 10
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["provider"] for row in rows] == ["ours", "floor", "python"]
    assert {(row["case"], row["metric"]) for row in rows} == {("store-engine --help", "wall_ms")}
