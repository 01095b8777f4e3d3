"""The log of a training: a progress bar on the terminal, train_log.jsonl, and TensorBoard events.

A line of train_log.jsonl holds the metrics of one step: `loss`, the loss of every task or text
field as `loss/NAME`, and metrics of the log's own. Users choose the names of text fields: the
prefix keeps them apart from the log's.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from store_engine.errors import InputError
from store_engine.extras import needs
from store_engine.files.json_file import parse_json, write_json_lines
from store_engine.files.regular import open_regular
from store_engine.terminal import make_console, printable

_LINE_EVERY_S = 20.0  # without a terminal: one plain line this often
VALIDATION = "valid_ndcg@10"
# metrics of a step that are no loss
NO_LOSS = ("lr", "tokens_per_s", "share_of_peak", "wall_s", VALIDATION)
_ALWAYS = ("loss", "tokens_per_s", "wall_s")  # of every entry
_MAX_LINE_BYTES = 1 << 20
FLAT = 0.01  # of NDCG, that more epochs would not be worth


class TrainLog:
    """One stage's log; a context manager. Ranks other than 0 stay silent.

    Args:
        path: The run's train_log.jsonl, shared by its stages.
        stage: Name of the stage.
        first_step: Steps done before; later entries of the stage are dropped, they will come again.
        num_steps: Steps of the whole stage.
        is_silent: Write and print nothing.
        tensorboard: Write events too, into `tensorboard/STAGE` beside the log.

    Raises:
        InputError: TensorBoard is wanted but not installed.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        first_step: int,
        num_steps: int,
        is_silent: bool,
        tensorboard: bool = False,
    ) -> None:
        self._path, self._stage, self._num_steps = path, stage, num_steps
        self._console = make_console(soft_wrap=True)
        self._last_line = 0.0
        self._file: IO[str] | None = None
        self._events: Any = None
        if not is_silent:
            _drop_later_entries(path, stage, first_step)
            self._file = path.open("a", encoding="utf-8")
            if tensorboard:
                self._events = _event_writer(path.with_name("tensorboard") / stage, first_step)
        # here: what only reads a log needs no rich
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=self._console,
            disable=is_silent or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            stage, total=num_steps, completed=first_step, metrics=""
        )

    def __enter__(self) -> "TrainLog":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Records the metrics of step number `step`, counted from 1."""
        if self._file is None:
            return
        self._file.write(json.dumps({"stage": self._stage, "step": step} | metrics) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
        text = in_words(metrics)
        self._progress.update(self._task, completed=step, metrics=text)
        is_due = time.monotonic() - self._last_line > _LINE_EVERY_S or step == self._num_steps
        if not self._console.is_terminal and is_due:
            self._last_line = time.monotonic()
            self.say(f"{self._stage} {step}/{self._num_steps}  {text}")

    def values(self, name: str) -> list[float]:
        """Returns a metric of this stage wherever it was measured; none if this log is silent."""
        if self._file is None:
            return []
        entries = read_log(self._path)
        return [one[name] for one in entries if one["stage"] == self._stage and name in one]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the progress bar away while something else shows its own."""
        self._progress.stop()
        yield
        self._progress.start()

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        if self._file is not None:
            self._console.print(line)


def in_words(metrics: dict[str, float]) -> str:
    """Puts a step's metrics into words: every loss, the throughput, the share of the peak."""
    words = [
        f"{printable(name.removeprefix('loss/'))} {value:.3f}"
        for name, value in metrics.items()
        if name not in NO_LOSS
    ]
    if VALIDATION in metrics:
        words.append(f"{VALIDATION} {metrics[VALIDATION]:.4f}")
    if "tokens_per_s" in metrics:
        words.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    if "share_of_peak" in metrics:
        words.append(f"{metrics['share_of_peak']:.0%} of peak")
    return "  ".join(words)


def last_rise(values: Sequence[float]) -> float:
    """Tells whether more epochs may be better.

    Args:
        values: Validation, measured on the way.

    Returns:
        By what share the last one is above the one before; 0 if that is `FLAT` or less, or if an
        earlier one was as good.
    """
    if len(values) < 2 or values[-1] <= max(values[:-1]):
        return 0.0
    rise = (values[-1] - values[-2]) / max(values[-2], 1e-9)
    return rise if rise > FLAT else 0.0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads the entries of a train_log.jsonl, none if there is no such file.

    A line that a kill cut short, or that is damaged, is left out.

    Raises:
        InputError: It is no regular file, or cannot be read.
    """
    return _read_entries(path)[0]


def _read_entries(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Entries, and the number of whole lines that are none."""
    entries: list[dict[str, Any]] = []
    if not os.path.lexists(path):
        return entries, 0
    num_damaged = 0
    with open_regular(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
            try:
                entry = parse_json(line, str(path))
            except InputError:
                entry = None
            if _is_entry(entry):
                entries.append(entry)
            elif line.endswith(b"\n"):
                num_damaged += 1
    return entries, num_damaged


def _is_entry(entry: Any) -> bool:
    """Whether a parsed line is one that `TrainLog.step` wrote."""
    if not isinstance(entry, dict) or not isinstance(entry.get("stage"), str):
        return False
    metrics = [value for name, value in entry.items() if name not in ("stage", "step")]
    # finite, and no integer that is beyond every float
    are_numbers = all(type(value) in (int, float) and abs(value) < 1e308 for value in metrics)
    return type(entry.get("step")) is int and are_numbers and set(_ALWAYS) <= set(entry)


def _drop_later_entries(path: Path, stage: str, first_step: int) -> None:
    entries, num_damaged = _read_entries(path)
    if num_damaged:
        print(f"{path}: {num_damaged} damaged line(s) are dropped")
    write_json_lines(path, [e for e in entries if e["stage"] != stage or e["step"] <= first_step])


def _event_writer(folder: Path, first_step: int) -> Any:
    with needs("train.tensorboard = true"):
        from torch.utils.tensorboard import SummaryWriter
    # purge_step: what a killed run wrote after its last checkpoint comes again
    return SummaryWriter(str(folder), purge_step=first_step + 1)
