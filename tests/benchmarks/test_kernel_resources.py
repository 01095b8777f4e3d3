import csv
import re

import pytest
import triton

from benchmarks.kernel_resources import COLUMNS, TARGETS, occupancy, write
from benchmarks.measuring.harness import Options

# registers, shared bytes, warps of a block, blocks that one multiprocessor holds
CASES = {
    "sm_80": [
        (128, 24576, 8, 2),  # 65,536 registers / (128 x 256)
        (129, 24576, 8, 1),  # handed out in eights: 136 x 256
        (32, 0, 4, 16),  # 64 warps
        (32, 0, 1, 32),  # never more than 32 blocks
        (32, 80 << 10, 4, 2),  # 164 KiB, of which CUDA keeps one for each block
    ],
    "sm_90": [(32, 80 << 10, 4, 2), (32, 113 << 10, 4, 2), (32, 114 << 10, 4, 1)],
    "gfx942": [(128, 0, 4, 4), (256, 0, 4, 2), (64, 40 << 10, 4, 1)],
}


@pytest.mark.parametrize(
    ("name", "registers", "shared_bytes", "warps", "num_blocks"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_occupancy(name, registers, shared_bytes, warps, num_blocks):
    target = TARGETS[name]
    want = num_blocks * warps / target.warps_per_sm
    assert occupancy(registers, shared_bytes, warps, target) == want


@pytest.mark.parametrize(
    ("cases", "want"),
    [("", ["a-2.0.0", "b-2.0.0", "a-new"]), ("b,", ["a-2.0.0", "b-2.0.0", "a-old", "a-new"])],
    ids=["all", "some"],
)
def test_rows_of_another_triton_and_of_other_cases_stay(tmp_path, cases, want):
    def row(kernel, version, config):
        cells = dict.fromkeys(COLUMNS, "0")
        return cells | {"kernel": kernel, "triton": version, "config": config}

    here = triton.__version__
    old = [row("a", "2.0.0", "2.0.0"), row("b", "2.0.0", "2.0.0")]
    old += [row("a", here, "old"), row("b", here, "old")]
    options = Options(re.compile(cases), 1, tmp_path / "x.csv", False, "cpu", None)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(old)
    write([row("a", here, "new")], options)
    with options.out.open(newline="") as file:
        assert [f"{r['kernel']}-{r['config']}" for r in csv.DictReader(file)] == want
