"""A preparation's report for people: on the terminal, and as the data card README.md."""

from typing import TYPE_CHECKING

from store_engine.prepare.guess import guess_lines
from store_engine.prepare.report import Report

if TYPE_CHECKING:
    from rich.console import Console


def print_report(console: "Console", report: Report) -> None:
    """Prints the counts as tables."""
    from rich.table import Table as RichTable

    counts = RichTable("", "count", box=None, padding=(0, 2, 0, 0))
    counts.columns[1].justify = "right"
    for row in report.counts():
        counts.add_row(*row)
    console.print(counts)
    lengths = RichTable("", "empty", "median", "p95", "max", "mean", box=None, padding=(0, 2, 0, 0))
    for cells in _length_rows(report):
        lengths.add_row(*cells)
    for column in lengths.columns[1:]:
        column.justify = "right"
    if not report.cut:
        console.print(lengths)
    console.print(f"times: {report.time_form}")
    for line in report.notes:
        console.print(f"note: {line}")
    for line in report.warnings:
        console.print(f"warning: {line}", style="yellow")


def card_markdown(name: str, report: Report, split: str) -> str:
    """Writes the data card.

    Args:
        name: The data's name.
        report: What was found.
        split: The split's name.
    """
    lines = [
        f"# {name}",
        "",
        "Made by `store-engine prepare`; card.json has the same for machines.",
    ]
    lines += [
        "",
        "## Sources",
        "",
        *(f"- {_escaped(line.strip())}" for line in guess_lines(report.found)),
    ]
    lines += ["", "## Counts", "", "| | |", "|---|---:|"]
    lines += [f"| {_escaped(key)} | {_escaped(value)} |" for key, value in report.counts()]
    lines += ["", "## Lengths", "", "Texts in letters.", ""]
    lines += ["| | empty | median | p95 | max | mean |", "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in _length_rows(report)]
    lines += ["", "## Times and split", "", f"Times: {_escaped(report.time_form)}."]
    if report.first_time:
        lines += [f"From {report.first_time} to {report.last_time}."]
    lines += [f"Split: {split}.", ""]
    if report.unknown_examples:
        lines += [f"Unknown items, most often: {_escaped(report.unknown_examples)}", ""]
    if report.warnings or report.notes:
        lines += ["## To know", ""]
        lines += [f"- {_escaped(line)}" for line in [*report.warnings, *report.notes]]
        lines += [""]
    return "\n".join(lines)


def _length_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, (_, median, p95, most, mean) in report.lengths.items():
        rows.append((name, "", f"{median:,}", f"{p95:,}", f"{most:,}", f"{mean:,.1f}"))
    for name, lengths in report.texts.items():
        s = lengths.summary()
        numbers = [f"{s[key]:,}" for key in ("empty", "median", "p95", "max")]
        rows.append((name, *numbers, f"{s['mean']:,.1f}"))
    return rows


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
