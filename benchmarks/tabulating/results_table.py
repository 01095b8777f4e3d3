"""A table of results, from the rows of a sweep: mean ± standard deviation over seeds.

`[table]` of the plan says how it looks:

    [table]
    main = "ours"                     # whose baselines are shown: they are the same for all
    parts = ["llm", "evidence"]       # recommenders within a run, shown below these variants:
    detailed = ["ours"]

    [table.sections]                  # variants in this order; others that have rows come last
    "One change from ours" = ["text_alone", "no_evidence"]
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import RESULTS, ROOT
from benchmarks.tabulating.markdown import figure, markdown
from store_engine.config import read_config_tree
from store_engine.errors import InputError, shown
from store_engine.evaluation.protocols import RULES
from store_engine.evaluation.titles import FIGURES, recommender_title
from store_engine.experiments.rows import Row, is_finished, mean_std, read_rows

PLANS = ROOT / "configs" / "sweeps"
_FIGURES = ("recall@10", "ndcg@10")
_HEADER = [
    "",
    *(f"{FIGURES[figure]}, {rule.title}" for rule in RULES for figure in _FIGURES),
    "validation N@10",
    "minutes",
    "seeds",
]


class Layout(NamedTuple):
    """How a table looks; the `[table]` of a plan."""

    main: str
    parts: tuple[str, ...]
    detailed: tuple[str, ...]
    sections: dict[str, list[str]]


def results_table(name: str, folder: Path = RESULTS) -> str:
    """The table of a plan, from the rows that are there.

    Args:
        name: The plan is `configs/sweeps/NAME.toml`.
        folder: Where NAME.jsonl is.

    Raises:
        InputError: The plan's `[table]` or a row is damaged.
    """
    rows = [row for row in read_rows(folder / f"{name}.jsonl") if is_finished(row)]
    if not rows:
        return markdown([], [])
    layout = read_layout(PLANS / f"{name}.toml", [row["variant"] for row in rows])
    of = {variant: [r for r in rows if r["variant"] == variant] for variant in _variants(rows)}
    lines: list[list[str]] = []
    baselines = _baseline_lines(of.get(layout.main, rows), layout.parts)
    if baselines:
        lines += [_heading("Without training"), *baselines]
    for title, variants in layout.sections.items():
        measured = [variant for variant in variants if variant in of]
        if measured:
            lines.append(_heading(title))
        for variant in measured:
            lines.append(_line(of[variant]))
            if variant in layout.detailed:
                lines += [
                    _recommender_line(f"{_title(of[variant])}: {_label(part)}", of[variant], part)
                    for part in layout.parts
                ]
    return f"{markdown(_HEADER, lines)}\n\n{_provenance(name, rows)}"


def read_layout(plan: Path, measured: Iterable[str]) -> Layout:
    """Reads a plan's `[table]`; variants that it does not name come last.

    Args:
        plan: The TOML file.
        measured: Names of the variants that have rows.

    Raises:
        InputError: It is damaged.
    """
    tree = read_config_tree(plan)
    table, declared = tree.get("table", {}), list(tree.get("variants", {}))
    main = table.get("main", next(iter(declared), ""))
    sections = {"Trained": declared} if "sections" not in table else dict(table["sections"])
    parts, detailed = table.get("parts", []), table.get("detailed", [main])
    for names in (parts, detailed, *sections.values()):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{plan}: table: must be a list of names, got {shown(names)}")
    placed = {name for names in sections.values() for name in names}
    sections["Others"] = [name for name in dict.fromkeys(measured) if name not in placed]
    return Layout(main, tuple(parts), tuple(detailed), sections)


def _variants(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))


def _heading(title: str) -> list[str]:
    return [f"**{title}**", *[""] * (len(_HEADER) - 1)]


def _title(rows: Sequence[Row]) -> str:
    return _escaped(rows[-1].get("title") or rows[-1]["variant"])


def _line(rows: Sequence[Row]) -> list[str]:
    """A variant: the mean of its seeds."""
    figures = [
        _cell([row["test"][rule.name]["metrics"][figure] for row in rows])
        for rule in RULES
        for figure in _FIGURES
    ]
    validation = _cell([row["validation"]["ndcg@10"] for row in rows if "validation" in row])
    minutes = f"{mean_std(row['minutes']['total'] for row in rows)[0]:.1f}"
    return [_title(rows), *figures, validation, minutes, str(len(rows))]


def _baseline_lines(rows: Sequence[Row], parts: Sequence[str]) -> list[list[str]]:
    names = [n for row in rows for rule in RULES for n in row["test"][rule.name]["baselines"]]
    return [
        _recommender_line(_label(name), rows, name)
        for name in dict.fromkeys(names)
        if name not in parts
    ]


def _recommender_line(title: str, rows: Sequence[Row], name: str) -> list[str]:
    """A recommender that stands beside a run's own in its rows; it has no validation figure."""
    cells = []
    for rule in RULES:
        measured: list[dict[str, Any]] = [row["test"][rule.name]["baselines"] for row in rows]
        for metric in _FIGURES:
            cells.append(_cell([of[name][metric] for of in measured if name in of]))
    return [title, *cells, "", "", ""]


def _label(name: str) -> str:
    return _escaped(recommender_title(name))


def _cell(values: Sequence[float]) -> str:
    """.1094 ± .0006; empty if it was not measured, without ± where seeds do not matter."""
    if not values:
        return ""
    mean, std = mean_std(values)
    return f"{figure(mean)} ± {figure(std)}" if std else figure(mean)


def _provenance(name: str, rows: Sequence[Row]) -> str:
    """What the figures stand on: data, machine, commit, command."""

    def all_of(values: Iterable[object]) -> str:
        return _escaped(", ".join(dict.fromkeys(str(value) for value in values if value)))

    last = next((row for row in reversed(rows) if "settings" in row), None)
    if last is None:
        return ""
    checksums = all_of(row.get("data", {}).get("checksum") for row in rows)
    return (
        f"{_escaped(last['dataset'])}, {_escaped(last['protocol'])}, {last['num_users']:,} users, "
        f"{last['num_items']:,} items{f', data {checksums}' if checksums else ''}; mean ± standard "
        f"deviation over seeds; minutes are those of a whole training with its evaluation, on "
        f"{all_of(row['hardware'] for row in rows)}; "
        f"commit {all_of(row['commit'] for row in rows)}.\n\n"
        f"    python benchmarks/results.py --table {name}"
    )


def _escaped(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).replace("|", "\\|").replace("<", "&lt;")
