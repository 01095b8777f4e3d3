"""Compiles every kernel for GPUs that are not here, at the tile sizes that its op launches."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = {"sm_80": 163 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}  # shared bytes per block
RECORDED = ROOT / "benchmarks" / "results" / "kernels_resources.csv"
VERSIONS = {"3.6.0", "3.9.0"}  # what common CUDA images have, and the newest


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def resources(tmp_path_factory) -> list[dict[str, str]]:
    """Of the Triton that is installed."""
    out = tmp_path_factory.mktemp("kernels") / "resources.csv"
    command = [sys.executable, "benchmarks/kernel_resources.py", "--out", str(out)]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert out.exists(), done.stderr
    return read(out)


@pytest.fixture(params=["compiled", "recorded"])
def rows(request) -> list[dict[str, str]]:
    """What is compiled now, and what benchmarks/results/ says of both versions of Triton."""
    if request.param == "recorded":
        return read(RECORDED)
    return request.getfixturevalue("resources")


def test_covers_every_kernel_on_every_target(resources):
    source = "".join(path.read_text() for path in (ROOT / "kernels").rglob("*.py"))
    kernels = set(re.findall(r"def (_\w+_kernel)\(", source))
    compiled = {(row["function"], row["target"]) for row in resources}
    assert compiled == {(kernel, target) for kernel in kernels for target in LIMIT}


def test_nothing_spills(rows):
    assert [row for row in rows if int(row["spill_bytes"])] == []


def test_shared_memory_fits(rows):
    assert [row for row in rows if int(row["shared_bytes"]) > LIMIT[row["target"]]] == []


def test_a_multiprocessor_holds_eight_warps_or_more(rows):
    assert [row for row in rows if not 0.125 <= float(row["occupancy"]) <= 1] == []


def test_what_is_recorded_is_what_the_ops_launch(resources):
    """Under both versions; mended by running benchmarks/kernel_resources.py under each."""

    def launches(rows):
        names = ("kernel", "function", "dtype", "target", "config")
        return sorted(tuple(row[name] for name in names) for row in rows)

    recorded = read(RECORDED)
    assert {row["triton"] for row in recorded} == VERSIONS
    for version in VERSIONS:
        assert launches(r for r in recorded if r["triton"] == version) == launches(resources)
