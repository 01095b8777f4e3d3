"""The result of an evaluation, saved and printed."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from store_engine.evaluation.protocols import RULES
from store_engine.evaluation.titles import FIGURES, recommender_title
from store_engine.files.json_file import write_json
from store_engine.terminal import printable

_FILE_WIDTH = 120  # columns where no terminal says how many


def save_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Writes metrics.json, which either stands complete or not at all."""
    write_json(path, metrics)


def print_metrics(metrics: dict[str, Any], console: Console) -> None:
    """Prints the result beside the baselines under each rule, and by the target's frequency.

    Args:
        metrics: What `evaluate_run` returned.
        console: Prints it.
    """
    primary = metrics["primary"]
    names = [name for name in FIGURES if name in metrics["metrics"]]
    title = (
        f"{metrics['dataset']}, {metrics['protocol']}, {metrics['num_users']:,} users, "
        f"{metrics['num_items']:,} items, {metrics['decoding']}"
    )
    # Text, never str: a console may take a str for markup, and the name is the user's
    shown = Text(printable(title))
    table = Table(title=shown, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(FIGURES[name], justify="right", no_wrap=True)
    for rule in RULES:
        measured = metrics["protocols"][rule.name]
        table.add_row(rule.title + (" *" if rule.name == primary else ""), style="bold")
        providers = measured["baselines"] | {"store_engine": measured["metrics"]}
        for provider, values in providers.items():
            _add_figures(table, recommender_title(provider), values, names)
        table.add_section()
    table.add_row("* by training events", style="bold")
    for bucket, values in metrics["buckets"].items():
        if values["num_users"]:
            _add_figures(table, f"{bucket} ({values['num_users']:,.0f})", values, names)
    # a file or a pipe takes all figures, however long the names beside them
    width = None if console.is_terminal else max(console.width, _FILE_WIDTH)
    console.print(table, width=width, crop=width is None)
    for line in _notes(metrics):
        console.print(Text(line), soft_wrap=True)


def _add_figures(table: Table, label: str, values: dict[str, float], names: list[str]) -> None:
    table.add_row(f"  {label}", *(f"{values[name]:.4f}" for name in names))


def _notes(metrics: dict[str, Any]) -> list[str]:
    exclude = str(metrics["config"]["decoding"]["exclude_history"]).lower()
    notes = [
        f"* the run's own rule (decoding.exclude_history = {exclude}); "
        f"its last rows are users by how often training saw the target",
        f"{metrics['share_of_targets_seen']:.1%} of the targets stand in the user's history",
    ]
    name = "recall@10" if "recall@10" in metrics["metrics"] else "mrr"
    if metrics["standard_errors"]:
        error = metrics["standard_errors"][name]
        notes.append(f"standard error of store_engine's {FIGURES[name]} *: {error:.4f}")
    if "scoring" in metrics:
        figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics["scoring"].items())
        notes.append(f"scoring, one random item beside each target: {figures}")
    return notes
