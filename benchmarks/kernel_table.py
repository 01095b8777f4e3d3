"""The resources of all kernels as a table: the worse figure of all versions of Triton recorded."""

import csv
import re
from itertools import groupby
from pathlib import Path

from benchmarks.markdown import markdown

TARGETS = ("sm_80", "sm_90", "gfx942")


def kernels_table(folder: Path) -> str:
    """One line a kernel and dtype, a cell a target: registers, shared memory, occupancy."""
    path, rows = folder / "kernels_resources.csv", []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    lines = []
    for (kernel, dtype), group in groupby(sorted(rows, key=_kernel), key=_kernel):
        found = list(group)
        cells = [_cell([row for row in found if row["target"] == target]) for target in TARGETS]
        spilled = max(int(row["spill_bytes"]) for row in found)
        costs = (
            f"{float(found[0][name]):.2g}".replace("e+0", "e").replace("e+", "e")
            for name in ("bytes", "flops")
        )
        lines.append([f"`{kernel}` {dtype}", *cells, str(spilled), *costs])
    return markdown(["kernel", *TARGETS, "bytes spilled", "bytes", "FLOPs"], lines)


def _kernel(row: dict[str, str]) -> tuple[str, str]:
    return row["kernel"], row["dtype"]


def _power(x: float) -> str:
    """1.5e6 for 1,500,000."""
    return re.sub(r"e\+0?", "e", f"{x:.1e}")


def _cell(rows: list[dict[str, str]]) -> str:
    registers = max(int(row["registers"]) for row in rows)
    shared = max(int(row["shared_bytes"]) for row in rows) / 1024
    occupancy = min(float(row["occupancy"]) for row in rows)
    return f"{registers}, {shared:.0f} KiB, {100 * occupancy:.0f} %"
