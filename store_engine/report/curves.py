"""A training's curves, by stage: the losses, validation, the throughput."""

from typing import Any

from store_engine.report.charts import Axes, Chart, Line, line_chart
from store_engine.report.loaded_run import shortened
from store_engine.training.log import NO_LOSS, VALIDATION

Entries = list[dict[str, Any]]
_LARGEST, _LARGEST_STEP = 1e300, 10**15
_STAGES = {
    "tokenizer": "Stage 1: items into codes",
    "recommender": "Stage 2: histories into items",
}


def stages(log: Entries) -> dict[str, Entries]:
    """Groups the entries of a log by stage, in the order of training."""
    found: dict[str, Entries] = {}
    for entry in log:
        found.setdefault(entry["stage"], []).append(entry)
    return found


def training_charts(log: Entries) -> list[tuple[str, list[Chart]]]:
    """Draws the curves of every stage.

    Args:
        log: Entries of train_log.jsonl.

    Returns:
        The title of each stage, and its charts.
    """
    return [
        (_STAGES.get(stage, shortened(stage)), _stage_charts(entries))
        for stage, entries in stages(log).items()
    ]


def series(entries: Entries, name: str) -> tuple[list[int], list[float]]:
    """Returns the steps at which something was measured, and its values.

    A log may hold any number; what no chart can show stands at the limit.
    """
    measured = [entry for entry in entries if name in entry]
    steps = [max(-_LARGEST_STEP, min(entry["step"], _LARGEST_STEP)) for entry in measured]
    return steps, [max(-_LARGEST, min(float(entry[name]), _LARGEST)) for entry in measured]


def _stage_charts(entries: Entries) -> list[Chart]:
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    losses = [name for name in names if name not in (*NO_LOSS, "stage", "step")]
    if len(losses) == 2:  # the total of a single task says the same
        losses = [name for name in losses if name != "loss"]
    lines = [
        Line(shortened(name.removeprefix("loss/"), 40), *series(entries, name)) for name in losses
    ]
    charts = [line_chart("Training loss", lines, Axes("step"))]
    steps, values = series(entries, VALIDATION)
    if steps:
        best = steps[values.index(max(values))]
        line = Line("NDCG@10 on validation users", steps, values, marks=True)
        title = f"Validation (best at step {best:,})"
        charts.append(line_chart(title, [line], Axes("step", marker=best)))
    line = Line("tokens per second", *series(entries, "tokens_per_s"))
    charts.append(line_chart("Throughput", [line], Axes("step", from_zero=True)))
    return charts
