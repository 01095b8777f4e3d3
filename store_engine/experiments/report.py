"""A sweep on the terminal: how far it is, and its variants ranked by validation."""

import contextlib
from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from store_engine.evaluation.protocols import RULES
from store_engine.experiments.rows import CHOSEN_BY, Row, by_variant, is_finished, mean_std
from store_engine.terminal import make_console, printable


class Progressing:
    """The progress of a sweep: a bar on a terminal, a line for each trial elsewhere."""

    def __init__(self, bar: Progress, total: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, completed=done, standing="")
        self._name = ""

    def begin(self, name: str) -> None:
        """A trial begins."""
        self._name = name
        self._bar.update(self._task, description=printable(name), standing="starting")
        if not self._bar.console.is_terminal:
            self._bar.console.print(f"{name}: training")

    def tell(self, standing: str) -> None:
        """Says where the trial stands."""
        self._bar.update(self._task, standing=printable(standing))

    def end(self, row: Row) -> None:
        """A trial has ended, and this is its row."""
        minutes = f"{row['minutes']['total']:.1f} min"
        if is_finished(row):
            result = f"validation {CHOSEN_BY} {row['validation'][CHOSEN_BY]:.4f}"
        else:
            result = f"failed: {row['error']}"
        self._bar.console.print(f"{self._name}: {result}, {minutes}")
        self._bar.advance(self._task)


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Progressing]:
    """Shows the progress of a sweep on stderr; stdout is for its result alone.

    Args:
        total: Trials.
        done: Those that have a row already.
    """
    console = make_console(stderr=True, soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[standing]}", markup=False),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        yield Progressing(bar, total, done)


def print_ranking(rows: Iterable[Row], console: Console, show_test: bool = False) -> None:
    """Prints variants, best mean validation NDCG@10 first, then what failed.

    Args:
        rows: Of a sweep, in any order.
        console: Prints them.
        show_test: Show test figures too. The order stays that of validation.
    """
    rows = list(rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant")
    shown = ["seeds", "validation N@10", "R@10", "minutes"]
    if show_test:
        shown += [f"test R@10/N@10, {rule.title}" for rule in RULES]
    for name in shown:
        table.add_column(name, justify="right")
    for name, of in by_variant(rows).items():
        cells = [str(len(of))]
        cells += [_cell([row["validation"][key] for row in of]) for key in (CHOSEN_BY, "recall@10")]
        cells.append(f"{mean_std(row['minutes']['total'] for row in of)[0]:.1f}")
        if show_test:
            cells += [_test_cell(of, rule.name) for rule in RULES]
        table.add_row(name, *cells)
    if not rows:
        console.print("no training has ended yet")
        return
    console.print(table)
    for row in rows:
        if not is_finished(row):
            console.print(
                f"{row['variant']}, seed {row['seed']} failed: {row['error']} (--retry: once more)",
                soft_wrap=True,
            )


def _cell(values: list[float]) -> str:
    mean, std = mean_std(values)
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def _test_cell(rows: list[Row], rule: str) -> str:
    figures = ("recall@10", "ndcg@10")
    return "/".join(
        f"{mean_std(row['test'][rule]['metrics'][name] for row in rows)[0]:.4f}" for name in figures
    )
