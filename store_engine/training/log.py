"""What training tells: a progress bar for the eye, train_log.jsonl and TensorBoard for the rest."""

import json
import time
from pathlib import Path
from typing import IO, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.terminal import make_console, printable

_LINE_EVERY_S = 20.0  # without a terminal: one plain line this often
# figures of a step that are no task's loss
NO_LOSS = ("lr", "grad_norm", "tokens_per_s", "share_of_peak", "fill", "wall_s")


class TrainLog:
    """One stage's log; a context manager. Ranks other than 0 stay silent.

    Args:
        path: The run's train_log.jsonl, shared by its stages.
        stage: Name of the stage.
        first_step: Steps done before; later entries of the stage are dropped, they will come again.
        num_steps: Of the whole stage.
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
        self._stage, self._num_steps = stage, num_steps
        self._console = make_console(soft_wrap=True)
        self._last_line = 0.0
        self._file: IO[str] | None = None
        self._events: Any = None
        if not is_silent:
            _drop_later_entries(path, stage, first_step)
            self._file = path.open("a", encoding="utf-8")
            if tensorboard:
                self._events = _event_writer(path.with_name("tensorboard") / stage, first_step)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),  # names of the user's columns
            console=self._console,
            disable=is_silent or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            stage, total=num_steps, completed=first_step, figures=""
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

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Records the figures of step number `step`, counted from 1."""
        if self._file is None:
            return
        self._file.write(json.dumps({"stage": self._stage, "step": step} | figures) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name if name in NO_LOSS else f"loss/{name}", value, step)
        text = in_words(figures)
        self._progress.update(self._task, completed=step, figures=text)
        is_due = time.monotonic() - self._last_line > _LINE_EVERY_S or step == self._num_steps
        if not self._console.is_terminal and is_due:
            self._last_line = time.monotonic()
            self._console.print(f"{self._stage} {step}/{self._num_steps}  {text}")


def in_words(figures: dict[str, float]) -> str:
    """A step's figures for the eye: every loss, the throughput, the share of the peak."""
    words = [
        f"{printable(name)} {value:.3f}" for name, value in figures.items() if name not in NO_LOSS
    ]
    if "tokens_per_s" in figures:
        words.append(f"{figures['tokens_per_s']:,.0f} tokens/s")
    if "share_of_peak" in figures:
        words.append(f"{figures['share_of_peak']:.0%} of peak")
    return "  ".join(words)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a train_log.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _drop_later_entries(path: Path, stage: str, first_step: int) -> None:
    kept = [e for e in read_log(path) if e["stage"] != stage or e["step"] <= first_step]
    with atomic_open(path) as file:
        file.write("".join(json.dumps(e) + "\n" for e in kept).encode())


def _event_writer(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "train.tensorboard = true needs TensorBoard: pip install 'store-engine[watch]'"
        ) from error
    # purge_step: what a killed run wrote after its last checkpoint comes again
    return SummaryWriter(str(folder), purge_step=first_step + 1)
