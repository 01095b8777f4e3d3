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


@pytest.fixture(scope="module")
def resources(tmp_path_factory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("kernels") / "resources.csv"
    command = [sys.executable, "benchmarks/kernels.py", "--compile-only", "--out", str(out)]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert out.exists(), done.stderr
    with out.open() as file:
        return list(csv.DictReader(file))


def test_covers_every_kernel_on_every_target(resources):
    source = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    kernels = set(re.findall(r"def (_\w+_kernel)\(", source))
    compiled = {(row["function"], row["target"]) for row in resources}
    assert compiled == {(kernel, target) for kernel in kernels for target in LIMIT}


def test_nothing_spills(resources):
    assert [row for row in resources if int(row["spill_bytes"])] == []


def test_shared_memory_fits(resources):
    assert [row for row in resources if int(row["shared_bytes"]) > LIMIT[row["target"]]] == []


def test_occupancy_is_not_zero(resources):
    assert all(0 < float(row["occupancy"]) <= 1 for row in resources)
