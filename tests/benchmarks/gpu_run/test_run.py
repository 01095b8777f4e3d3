import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_run.parts import Part
from benchmarks.gpu_run.run import Run, judge


def make_run(tmp_path, minutes=1.0):
    return Run(tmp_path, False, minutes, None)


def in_python(code, limit_s=30.0, **changes):
    return Part("part", ("-c", code), limit_s, on_gpu=False, **changes)


@pytest.mark.parametrize(
    ("part", "status", "reason"),
    [
        (in_python("print('fine')"), "ok", ""),
        (in_python("import no_such_module"), "skipped", "not installed: no_such_module"),
        (in_python("raise SystemExit('broken')"), "failed", "exit status 1: broken"),
        (in_python("import signal; signal.pause()", 0.5), "failed", "stopped at its limit of 0 s"),
        (in_python("", needs=("no_such", "json")), "skipped", "not installed: no_such"),
        (Part("part", ("-c", ""), 30), "skipped", "no CUDA device"),
    ],
    ids=["ok", "import", "status", "limit", "needs", "gpu"],
)
def test_what_becomes_of_a_part(tmp_path, monkeypatch, part, status, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = make_run(tmp_path)
    run.do(part)
    assert (run.results[0].status, run.results[0].reason) == (status, reason)
    assert json.loads((tmp_path / "summary.json").read_text())["parts"][0]["status"] == status


def test_a_part_takes_its_children_with_it(tmp_path, monkeypatch):
    """A launcher's workers must not go on beside the next part."""
    child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    wait, log = subprocess.Popen.wait, tmp_path / "part.log"

    def wait_for_the_child(process, timeout=None):
        if timeout is None:
            return wait(process)
        while not log.read_text().rstrip().splitlines()[-1].isdigit():
            assert process.poll() is None
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_the_child)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    run = make_run(tmp_path)
    run.do(in_python(code))
    assert run.results[0].status == "failed"
    pid = log.read_text().split()[-1]
    stat = Path("/proc", pid, "stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        pass  # it was killed, and is gone as soon as the system gets to it


def test_no_part_begins_when_the_time_is_up(tmp_path):
    run = make_run(tmp_path, minutes=0.01)
    run.do(in_python("print('late')"))
    assert run.results[0].reason == "no time is left"


def test_a_missing_module_is_no_failure():
    log = "Traceback\nModuleNotFoundError: No module named 'faiss'\n"
    assert judge("x", 1, log).reason == "not installed: faiss"
    assert judge("x", 1, "error: disk full").reason == "exit status 1: error: disk full"
