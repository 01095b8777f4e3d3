"""How the codes of a catalogue are used."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from store_engine.report.charts import Axes, Chart, Line, line_chart
from store_engine.sid.codebook_report import codebook_report
from store_engine.sid.sid_table import SidTable


@dataclass(frozen=True)
class Codebook:
    """The codes, in figures and pictures.

    Args:
        report: Of `codebook_report`.
        charts: The use of every level's codes; what neighbours share.
        described: Levels that describe an item; those behind only tell it from others.
        last_is_item: The last level is the item itself.
    """

    report: dict[str, Any]
    charts: list[Chart]
    described: int
    last_is_item: bool


def codebook(table: SidTable, num_codes: int) -> Codebook:
    """Measures the codes of a run.

    Args:
        table: Its SIDs.
        num_codes: `tokenizer.num_codes`.
    """
    report = codebook_report(table, num_codes)
    described = len(report["redundancy"])
    charts = [_usage_chart(table, report, described)]
    if "neighbours_share_prefix" in report and len(report["prefix_by_chance"]) > 1:
        charts.append(_neighbour_chart(report))
    return Codebook(report, charts, described, table.features is not None)


def level_name(level: int) -> str:
    """Returns the letter of a level: a, b, c, ..."""
    return chr(ord("a") + level)


def _usage_chart(table: SidTable, report: dict[str, Any], described: int) -> Chart:
    lines = []
    for level in range(described):
        size = table.codebook_sizes[level]
        counts = np.sort(np.bincount(table.sids[:, level], minlength=size))[::-1]
        shares = np.arange(size) / max(size - 1, 1) * 100
        perplexity = report["levels"][level]["perplexity"]
        name = f"level {level_name(level)}, {perplexity:.0f} effective of {size}"
        lines.append(Line(name, shares.tolist(), counts.tolist()))
    axes = Axes("codes, the most used first, %", from_zero=True)
    return line_chart("Items of a code", lines, axes)


def _neighbour_chart(report: dict[str, Any]) -> Chart:
    lengths = list(range(1, len(report["prefix_by_chance"]) + 1))
    near = [100 * share for share in report["neighbours_share_prefix"]]
    chance = [100 * share for share in report["prefix_by_chance"]]
    lines = [
        Line("an item and its 10 nearest", lengths, near, marks=True),
        Line("any two items", lengths, chance, marks=True),
    ]
    axes = Axes("codes from the first on", from_zero=True)
    return line_chart("Share the same first codes, %", lines, axes)
