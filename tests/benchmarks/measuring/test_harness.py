import csv
import re
import sys
import time

import pytest
import torch

from benchmarks.measuring import gpu_clock, harness


@pytest.fixture
def make_options(tmp_path, monkeypatch):
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


def test_rows_have_the_schema_and_are_appended(make_options, capsys):
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


def test_ratio_is_above_one_for_the_faster(make_options):
    report = harness.Report("bench", make_options())
    report.add("ours", "n=1", "latency_ms", "ms", harness.Quantiles(1, 2, 9))
    report.add("theirs", "n=1", "latency_ms", "ms", 6.0)
    report.add("theirs", "n=2", "latency_ms", "ms", 100.0)
    assert report.add_ratio("ours", "theirs", "n=1", "latency_ms") == 3.0
    row = report.rows[-1]
    assert (row["provider"], row["metric"], row["p50"]) == ("ours", "ratio_vs_theirs", 3.0)
    with pytest.raises(KeyError, match="no latency_ms of ours for case n=2"):
        report.add_ratio("ours", "theirs", "n=2", "latency_ms")


def test_every_run_is_repeated_until_its_own_time_is_spent(make_options, monkeypatch):
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


def test_quantiles_of_the_repetitions(make_options, monkeypatch):
    durations = iter([9.0, *range(1, 12)])  # the warm-up does not count
    now = 0.0

    def run():
        nonlocal now
        now += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    figures = harness.measure(run, make_options(), min_repeats=11, budget_s=1)
    assert figures == pytest.approx((3e3, 6e3, 9e3))


@pytest.mark.parametrize(
    ("args", "want"),
    [
        (("--cases", "("), "--cases"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("--device", "gpu"), "--device must be cpu or cuda, got gpu"),
        (("--device", "cuda"), "finds no CUDA device"),
        (("--device", "pretended"), "--device must be cpu or cuda, got pretended"),
    ],
    ids=["regex", "threads", "device", "no-gpu", "pretended"],
)
def test_a_wrong_command_line_is_refused_in_one_line(make_options, monkeypatch, capsys, args, want):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch, "pretended", raising=False)  # another test's
    with pytest.raises(SystemExit):
        make_options(*args)
    assert want in capsys.readouterr().err.splitlines()[-1]


def test_a_benchmark_of_the_cpu_refuses_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--device", "cuda"])
    with pytest.raises(SystemExit):
        harness.parse_options("bench", "About it.", has_gpu=False)
    assert "bench times what runs on a CPU alone" in capsys.readouterr().err


def test_no_matching_case_writes_nothing(make_options, capsys):
    options = make_options("--cases", "x=1")
    harness.Report("bench", options).finish()
    assert "no case matches --cases x=1" in capsys.readouterr().out
    assert not options.out.exists()


def test_table_columns_are_as_wide_as_their_cells(capsys):
    harness.print_table(("name", "ms"), [("a", "1.5"), ("longer", "100.0")])
    assert capsys.readouterr().out == "name    ms\na         1.5\nlonger  100.0\n"


class FakeCuda:
    """A device that runs what is launched one after the other, each for a time of its own."""

    def __init__(self, monkeypatch):
        self.now_ms, self.launched = 0.0, []
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = fake.now_ms

            def elapsed_time(self, end):
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.run("busy", 1.0))
        empty = torch.empty
        monkeypatch.setattr(
            gpu_clock.torch, "empty", lambda size, dtype, device: self.flush(empty(1, dtype=dtype))
        )

    def run(self, name, milliseconds):
        self.now_ms += milliseconds
        self.launched.append(name)

    def flush(self, buffer):
        outer = self

        class Flush:
            def zero_(self):
                outer.run("flush", 0.1)

        return Flush()


def test_the_device_clock_times_the_work_alone(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    durations = iter([50.0, 20.0, 1.0, 2.0, 3.0])
    times = gpu_clock.device_milliseconds(
        lambda: cuda.run("work", next(durations)), budget_s=0, min_repeats=3
    )
    assert times == pytest.approx([1.0, 2.0, 3.0])
    assert cuda.launched == ["work"] * 2 + ["flush", "busy", "work"] * 3
