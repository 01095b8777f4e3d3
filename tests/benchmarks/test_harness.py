import csv
import importlib.util
import re
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def harness():
    # benchmarks/ is not installed, and its folder on sys.path would hide packages
    path = ROOT / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("benchmark_harness", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def make_options(harness, tmp_path, monkeypatch):
    def make(*args):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "x.csv"), *args])
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        return harness.parse_options("bench", "About it.")

    return make


def read(options):
    with options.out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("args", "case", "is_wanted"),
    [
        ((), "batch=4", True),
        (("--cases", "batch=4$"), "n=1,batch=4", True),
        (("--cases", "batch=4$"), "n=1,batch=40", False),
    ],
    ids=["all", "matches", "does-not-match"],
)
def test_cases(make_options, args, case, is_wanted):
    assert make_options(*args).wants(case) == is_wanted


def test_options(make_options, tmp_path):
    options = make_options("--threads", "3", "--quick")
    assert (options.threads, options.quick, options.device) == (3, True, "cpu")
    assert options.out == tmp_path / "x.csv"


def test_rows_have_the_schema_and_are_appended(harness, make_options, capsys):
    options = make_options("--threads", "2")
    for latency in (1.5, 2.5):
        report = harness.Report("bench", options)
        report.add("ours", "n=1", "latency_ms", "ms", harness.Quantiles(1, latency, 3), "bfloat16")
        report.add("theirs", "n=1", "latency_ms", "ms", 6.0)
        report.finish()
    assert options.out.read_text().splitlines()[0] == (
        "benchmark,provider,case,metric,unit,p20,p50,p80,threads,dtype,machine,torch,commit,date"
    )
    rows = read(options)
    assert [row["p50"] for row in rows] == ["1.5", "6.0", "2.5", "6.0"]
    first = rows[0]
    assert first["machine"] and first["commit"] and re.match(r"\d{4}-\d\d-\d\d$", first["date"])
    assert first["torch"] == str(torch.__version__)
    assert (first["threads"], first["dtype"], rows[1]["dtype"]) == ("2", "bfloat16", "float32")
    assert "2.500" in capsys.readouterr().out


def test_ratio_is_above_one_for_the_faster(harness, make_options):
    report = harness.Report("bench", make_options())
    report.add("ours", "n=1", "latency_ms", "ms", harness.Quantiles(1, 2, 9))
    report.add("theirs", "n=1", "latency_ms", "ms", 6.0)
    report.add("theirs", "n=2", "latency_ms", "ms", 100.0)
    assert report.add_ratio("ours", "theirs", "n=1", "latency_ms") == 3.0
    row = report.rows[-1]
    assert (row["provider"], row["metric"], row["p50"]) == ("ours", "ratio_vs_theirs", 3.0)
    with pytest.raises(KeyError, match="no latency_ms of ours for case n=2"):
        report.add_ratio("ours", "theirs", "n=2", "latency_ms")


def test_every_run_is_repeated_until_its_own_time_is_spent(harness, make_options, monkeypatch):
    now, calls = 0.0, []

    def run(name, seconds):
        nonlocal now
        now += seconds
        calls.append(name)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    runs = {"slow": lambda: run("slow", 4.0), "fast": lambda: run("fast", 0.5)}
    figures = harness.measure_together(runs, make_options(), min_repeats=3, budget_s=5)
    assert figures == {"slow": (4000.0,) * 3, "fast": (500.0,) * 3}
    # one warm-up each, then in turn: slow three times at least, fast until 5 s
    assert calls == ["slow", "fast"] * 4 + ["fast"] * 7


def test_quantiles_of_the_repetitions(harness, make_options, monkeypatch):
    durations = iter([9.0, *range(1, 12)])  # the warm-up does not count
    now = 0.0

    def run():
        nonlocal now
        now += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    figures = harness.measure(run, make_options(), min_repeats=11, budget_s=1)
    assert figures == pytest.approx((3e3, 6e3, 9e3))
