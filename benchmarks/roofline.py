"""Where each step stands under the roof: operations per byte, by formula, and what bounds it.

    python benchmarks/roofline.py          # docs/pictures/roofline.svg and the table of the page

A product of (rows, d) with a weight (d, n) in bf16 takes 2 rows d n operations and moves
2 (rows d + d n + rows n) bytes at least. Nothing is timed here: these are the intensities that the
shapes of the other benchmarks have. The roof is that of an H100 SXM by its data sheet, without
sparsity (measuring/data_sheet.py).
"""

import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import ROOT
from benchmarks.measuring.data_sheet import H100
from benchmarks.tabulating.markdown import markdown

PEAK, BANDWIDTH = H100.bf16_flops, H100.bandwidth
PICTURE = ROOT / "docs" / "pictures" / "roofline.svg"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 400, 74, 56
_X, _Y = (0.7, 20_000.0), (1e12, 2e15)  # of the picture: flop/byte, flop/s


class Step(NamedTuple):
    """A step of the engine."""

    name: str
    shape: str
    intensity: float  # operations per byte


def matmul(rows: int, d: int, n: int) -> float:
    """Operations per byte of a (rows, d) x (d, n) product in bf16."""
    return 2 * rows * d * n / (2 * (rows * d + d * n + rows * n))


def steps() -> list[Step]:
    """The steps, from the least operations per byte to the most."""
    found = [
        # per code: 4 bytes are read; subtract, exp, add, compare: about 4 operations
        Step("beam step", "softmax over 256 codes and top 20", 1.0),
        Step("one history, one token", "what decoding without a batch is", matmul(1, 256, 1024)),
        Step("beams of 4 histories", "80 rows, hidden 256", matmul(4 * 20, 256, 1024)),
        Step("beams of 16 histories", "320 rows, hidden 256", matmul(16 * 20, 256, 1024)),
        Step("prefill of 16 histories", "1,280 rows, hidden 256", matmul(16 * 80, 256, 1024)),
        Step("training", "8,192 tokens, hidden 576", matmul(8192, 576, 1536)),
        Step("text loss, fused", "8,192 tokens over 49,152", 2 * 8192 * 576 * 49152 / 2
             / (8192 * 576 + 576 * 49152)),
    ]  # fmt: skip
    return sorted(found, key=lambda step: step.intensity)


def roofline_table(_: Path) -> str:
    """The steps as a table of Markdown."""
    ridge = PEAK / BANDWIDTH
    lines = []
    for step in steps():
        share = min(1.0, step.intensity / ridge)
        bound = "compute" if share == 1 else f"memory: at most {100 * share:.2g} % of the peak"
        lines.append([step.name, step.shape, f"{step.intensity:,.0f}", bound])
    return markdown(["step", "shape", "operations per byte", "bound by, on an H100"], lines)


def picture() -> str:
    """The same as an SVG, on logarithmic axes."""

    def place(x: float, y: float) -> tuple[float, float]:
        right = math.log(x / _X[0]) / math.log(_X[1] / _X[0])
        up = math.log(y / _Y[0]) / math.log(_Y[1] / _Y[0])
        return _LEFT + right * (_WIDTH - _LEFT - 24), (_HEIGHT - _BOTTOM) * (1 - up) + 14 * up

    parts = []
    for power in range(12, 16):
        x, y = place(_X[0], 10.0**power)
        label = f"{10 ** (power - 12):,}"
        parts.append(f'<path class="g" d="M{x:.0f} {y:.1f}H{_WIDTH - 24}"/>')
        parts.append(
            f'<text class="s" x="{x - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for value in (1, 10, 100, 1000, 10_000):
        x, y = place(value, _Y[0])
        parts.append(
            f'<text class="s" x="{x:.1f}" y="{y + 20:.1f}" text-anchor="middle">{value:,}</text>'
        )
    roof = [(_X[0], _X[0] * BANDWIDTH), (PEAK / BANDWIDTH, PEAK), (_X[1], PEAK)]
    line = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in roof)
    parts.append(f'<path class="r" d="M{line}"/>')
    lowest, before = 0.0, 1.0  # labels of neighbours stand below each other
    for step in steps():
        x, y = place(step.intensity, min(PEAK, step.intensity * BANDWIDTH))
        lowest = y + 26 if step.intensity > 10 * before else max(y + 26, lowest + 22)
        before = step.intensity
        anchor = "start" if step.intensity < 1000 else "middle"
        parts.append(f'<path class="l" d="M{x:.1f} {y:.1f}V{lowest - 12:.1f}"/>')
        parts.append(f'<circle class="p" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
        label = f'<text x="{x:.1f}" y="{lowest:.1f}" text-anchor="{anchor}">{step.name}</text>'
        parts.append(label)
    parts.append(f'<text class="s" x="{_LEFT}" y="{_HEIGHT - 14}">operations per byte moved</text>')
    parts.append('<text class="s" x="14" y="20">Tflop/s</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-labelledby="t">'
        '<title id="t">Roofline of an H100: beam step and small batches are bound by memory, '
        "prefill of batches, training and the text loss by compute or near it</title>"
    )
    return f"{head}{_STYLE}\n" + "\n".join(parts) + "\n</svg>\n"


_STYLE = """<style>
text{font:13.5px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#1d2127}
.s{font-size:12.5px;fill:#565e6b}.g{stroke:#e3e5ea}.r{fill:none;stroke:#2f4fa8;stroke-width:2.5}
.l{stroke:#a9b0bd;stroke-dasharray:3 3}.p{fill:#c2570c}
@media (prefers-color-scheme:dark){text{fill:#e6e8ec}.s{fill:#aab2bf}.g{stroke:#333945}
.r{stroke:#7ea1f5}.l{stroke:#5c6473}.p{fill:#f0a35e}}
</style>"""


if __name__ == "__main__":
    PICTURE.write_text(picture())
    print(roofline_table(PICTURE))
