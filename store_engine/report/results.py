"""What a run is worth: its figures beside the baselines', each with its error."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from store_engine.evaluation.protocols import RULES
from store_engine.evaluation.titles import FIGURES, TRAINING_FREE, recommender_title
from store_engine.report.loaded_run import Group, LoadedRun, shortened

Metrics = dict[str, Any]
_PANELS = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}


class Figure(NamedTuple):
    """A figure with its error."""

    value: float
    error: float | None  # over users, or the standard deviation over runs; None if unknown


@dataclass(frozen=True)
class Bar:
    """One figure with its error.

    Args:
        label: Whose it is.
        value: The figure.
        error: Its standard error over users, or the standard deviation over runs; None if unknown.
        is_ours: It is the run's, or one of those it is compared with.
        note: What stands behind the label in small.
    """

    label: str
    value: float
    error: float | None
    is_ours: bool = False
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """Bars on one scale.

    Args:
        title: What they measure.
        bars: Of it.
    """

    title: str
    bars: list[Bar]

    @property
    def top(self) -> float:
        """The largest value that must fit, above 0."""
        return max(*(bar.value + (bar.error or 0) for bar in self.bars), 1e-9)


@dataclass(frozen=True)
class RuleResults:
    """The results under one rule of which items compete.

    Args:
        title: The rule.
        is_primary: It is the run's own.
        panels: Recall@10 and NDCG@10.
        columns: Headings of the table.
        rows: Label, whether it is ours, and the figure of every column.
        buckets: Recall@10 by how often training saw the target.
    """

    title: str
    is_primary: bool
    panels: list[Panel]
    columns: list[str]
    rows: list[tuple[str, bool, list[Figure]]]
    buckets: Panel | None


def results(groups: Sequence[Group]) -> list[RuleResults]:
    """Puts the figures of groups of runs together, the run's own rule first.

    Args:
        groups: Of measured runs; the first is the report's own.
    """
    primary = _metrics_of(groups[0])[0]["primary"]
    rules = sorted(RULES, key=lambda rule: rule.name != primary)
    return [_rule_results(groups, rule.name, rule.title, rule.name == primary) for rule in rules]


def mean_and_error(values: Sequence[float], errors: Sequence[float | None]) -> Figure:
    """Returns one run's figure with its error over users, or several runs' mean and deviation.

    What is the same in every run, as a baseline that draws nothing, keeps its error over users.
    """
    if len(set(values)) == 1:
        return Figure(values[0], errors[0])
    return Figure(statistics.fmean(values), statistics.stdev(values))


def best_baseline(metrics: Metrics, name: str) -> tuple[str, float, float]:
    """Finds the best baseline that needs no training, under the run's own rule.

    Args:
        metrics: What metrics.json says.
        name: Of the figure, such as recall@10.

    Returns:
        Its name for people, its figure, and that figure's standard error.
    """
    found = {key: metrics["baselines"][key] for key in TRAINING_FREE if key in metrics["baselines"]}
    best = max(found, key=lambda key: found[key][name])
    error = metrics["baseline_standard_errors"][best][name]
    return recommender_title(best), found[best][name], error


def figure_name(metrics: Metrics) -> str:
    """Returns the figure that stands for the result: recall@10, or mrr where k is below 10."""
    return "recall@10" if "recall@10" in metrics["metrics"] else "mrr"


def _rule_results(groups: Sequence[Group], rule: str, title: str, primary: bool) -> RuleResults:
    first = [metrics["protocols"][rule] for metrics in _metrics_of(groups[0])]
    names = [name for name in FIGURES if name in first[0]["metrics"]]
    shown = [name for name in _PANELS if name in names] or names[:1]
    table: dict[str, tuple[bool, dict[str, Figure]]] = {}
    for provider in first[0]["baselines"]:
        of = [one["baselines"].get(provider, {}) for one in first]
        errors = [one["baseline_standard_errors"].get(provider, {}) for one in first]
        label = shortened(recommender_title(provider), 40)
        table[label] = (False, {name: _figure(of, errors, name) for name in names})
    for group in groups:
        of_rule = [metrics["protocols"][rule] for metrics in _metrics_of(group)]
        of = [one["metrics"] for one in of_rule]
        errors = [one["standard_errors"] for one in of_rule]
        seeds = f" ({len(group.runs)} runs)" if len(group.runs) > 1 else ""
        table[group.label + seeds] = (True, {name: _figure(of, errors, name) for name in names})
    panels = [
        Panel(
            _PANELS.get(name, FIGURES[name]),
            [Bar(label, *figures[name], ours) for label, (ours, figures) in table.items()],
        )
        for name in shown
    ]
    rows = [
        (label, ours, [figures[name] for name in names]) for label, (ours, figures) in table.items()
    ]
    columns = [FIGURES[name] for name in names]
    return RuleResults(title, primary, panels, columns, rows, _bucket_panel(first, shown[0]))


def _figure(of: Sequence[Metrics], errors: Sequence[Metrics], name: str) -> Figure:
    pairs = [(one[name], error.get(name)) for one, error in zip(of, errors, strict=True) if one]
    return mean_and_error([value for value, _ in pairs], [error for _, error in pairs])


def _bucket_panel(measured: Sequence[Metrics], name: str) -> Panel | None:
    """One bar per bucket with users; Recall is a share, so its error is that of a share."""
    bars = []
    for bucket, one in measured[0]["buckets"].items():
        users = one["num_users"]
        if not users or name not in one:
            continue
        values = [of["buckets"][bucket][name] for of in measured]
        share = values[0]
        error = math.sqrt(max(share * (1 - share), 0) / max(users - 1, 1))
        figure = mean_and_error(values, [error if name.startswith("recall") else None])
        label = "never" if bucket == "0" else f"{bucket} times"
        bars.append(Bar(label, *figure, True, f"{users:,.0f} users"))
    return Panel(_PANELS.get(name, FIGURES[name]), bars) if bars else None


def _metrics_of(group: Group) -> list[Metrics]:
    return [_required(run) for run in group.runs]


def _required(run: LoadedRun) -> Metrics:
    assert run.metrics is not None
    return run.metrics
