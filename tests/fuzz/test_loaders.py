"""A few hundred mutants of every loader's files; harness.py makes as many as one has time for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("harness.py")
ROOT = HARNESS.parents[2]


def run(*options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HARNESS), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_no_mutant_gets_through(tmp_path):
    report = tmp_path / "report.json"
    done = run("--target", "all", "--mutants", "200", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    results = json.loads(report.read_text())
    assert len(results) >= 24
    for name, result in results.items():
        assert sum(result["counts"].values()) == 200, name
        # the mutants do damage something; a damaged line of a log is left out, not refused
        assert result["counts"].get("InputError", 0) > 20 or name == "train log", name


@pytest.mark.parametrize(
    ("kinds", "deadline"),
    [
        (
            {"crash": "crash", "exit": "crash", "hang": "hang", "memory": "exception"}
            | {"exception": "exception"},
            ("--cpu-seconds", "0.2"),
        ),
        ({"wait": "hang"}, ("--real-seconds", "0.2")),
    ],
    ids=["works", "waits"],
)
def test_the_harness_finds_each_way_to_fail(tmp_path, kinds, deadline):
    report = tmp_path / "report.json"
    names = ",".join(f"broken {kind}" for kind in kinds)
    done = run("--target", names, "--mutants", "3", *deadline, "--json", str(report))
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    for name, result in json.loads(report.read_text()).items():
        found = [kind for _, kind, _ in result["findings"]]
        assert found and set(found) == {kinds[name.split()[1]]}, name
        assert sum(result["counts"].values()) == 3
