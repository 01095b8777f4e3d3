"""The resources of all kernels as a table: the worse figure of all versions of Triton recorded."""

from itertools import groupby
from pathlib import Path

from benchmarks.tabulating.figures import Row, read
from benchmarks.tabulating.markdown import markdown

TARGETS = ("sm_80", "sm_90", "gfx942")


def kernels_table(folder: Path) -> str:
    """One line a kernel and dtype, a cell a target: registers, shared memory, occupancy."""
    lines, rows = [], sorted(read("kernels_resources", folder), key=_kernel)
    for (kernel, dtype), group in groupby(rows, key=_kernel):
        found = list(group)
        cells = [_cell([row for row in found if row["target"] == target]) for target in TARGETS]
        spilled = max(int(row["spill_bytes"]) for row in found)
        costs = (_power(float(found[0][name])) for name in ("bytes", "flops"))
        lines.append([f"`{kernel}` {dtype}", *cells, str(spilled), *costs])
    return markdown(["kernel", *TARGETS, "bytes spilled", "bytes", "FLOPs"], lines)


def _kernel(row: Row) -> tuple[str, str]:
    return row["kernel"], row["dtype"]


def _power(x: float) -> str:
    """1.5e6 for 1,500,000."""
    return f"{x:.2g}".replace("e+0", "e").replace("e+", "e")


def _cell(rows: list[Row]) -> str:
    registers = max(int(row["registers"]) for row in rows)
    shared = max(int(row["shared_bytes"]) for row in rows) / 1024
    occupancy = min(float(row["occupancy"]) for row in rows)
    return f"{registers}, {shared:.0f} KiB, {100 * occupancy:.0f} %"
