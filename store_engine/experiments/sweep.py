"""A sweep: every trial of a plan that has no row yet is run, one after the other."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from store_engine.errors import InputError
from store_engine.experiments.log import append_experiment, experiment
from store_engine.experiments.plan import Plan, Trial
from store_engine.experiments.report import progress
from store_engine.experiments.rows import Row, is_finished, rows_of, save_row
from store_engine.experiments.trials import Launch, run_trial
from store_engine.files.lock import FileLock


class Sweep(NamedTuple):
    """Where a sweep's results go."""

    folder: Path  # of the runs; one sweep at a time works there
    rows: Path  # JSON lines
    experiments: Path | None = None  # a CSV file that gets a line for each trial
    note: str = ""  # what these lines say
    retry: bool = False  # run what failed before once more


def select(
    plan: Plan, variants: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Trial]:
    """Picks trials of a plan by variant and by seed; None: all.

    Raises:
        InputError: There is no such variant or seed in the plan.
    """
    known = [variant.name for variant in plan.variants]
    if unknown := [name for name in variants or () if name not in known]:
        raise InputError(f"no variant is named {unknown[0]!r}; there are {', '.join(known)}")
    if missing := set(seeds or ()) - {trial.seed for trial in plan.trials}:
        raise InputError(f"seed {min(missing)} is not in the plan")
    return [
        trial
        for trial in plan.trials
        if trial.variant.name in (variants or known) and trial.seed in (seeds or [trial.seed])
    ]


def run_sweep(
    trials: Sequence[Trial], sweep: Sweep, *, num_ranks: int | None = None, data: str | None = None
) -> list[Row]:
    """Runs the trials that have no row, and adds their rows as they end, well or badly.

    Args:
        trials: What should be there in the end.
        sweep: Where it goes.
        num_ranks: Ranks of a training; None: LOCAL_SIZE, else as many as DeepSpeed counts.
        data: Folder of the data, instead of the one that the configs name.

    Returns:
        The rows of all trials, in their order.

    Raises:
        InputError: The data is not there, or another sweep works in the same folder.
        KeyboardInterrupt: A request to stop; the same call again goes on.
    """
    waiting = _waiting(trials, sweep)
    if waiting:
        launch = Launch(_checked_ranks(num_ranks), data, _device())
        _check_data(waiting, data)
        sweep.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock.acquire(sweep.folder / ".lock", str(sweep.folder))
        with _stopped_by_sigterm(), progress(len(trials), len(trials) - len(waiting)) as shown:
            for trial in waiting:
                shown.begin(trial.name)
                row = run_trial(trial, launch, shown.tell)
                save_row(sweep.rows, row)
                if sweep.experiments is not None:
                    append_experiment(sweep.experiments, experiment(row, sweep.note))
                shown.end(row)
        lock.release()
    return rows_of(trials, sweep.rows)


def _waiting(trials: Sequence[Trial], sweep: Sweep) -> list[Trial]:
    """The trials that have no row with the settings of today."""
    done = {
        (row["variant"], row["seed"])
        for row in rows_of(trials, sweep.rows)
        if is_finished(row) or not sweep.retry
    }
    return [trial for trial in trials if (trial.variant.name, trial.seed) not in done]


def _checked_ranks(num_ranks: int | None) -> int | None:
    """The number of ranks; LOCAL_SIZE is what the launcher counts on a CPU."""
    if num_ranks is None:
        size = os.environ.get("LOCAL_SIZE", "")
        return int(size) if size.isdecimal() and int(size) else None
    if num_ranks < 1:
        raise InputError(f"--num_accelerators must be at least 1, got {num_ranks}")
    return num_ranks


def _check_data(trials: Sequence[Trial], data: str | None) -> None:
    """Looks for the data before the first training, not before the last one."""
    for trial in trials:
        settings = trial.config().data
        if settings.name == "synthetic" and data is not None:
            raise InputError(
                f"{trial.variant.name}: data.name = 'synthetic' draws its data, --data {data} "
                f"would be files: leave it out, or name a plan whose config reads files"
            )
        folder = Path(data or settings.path)
        if settings.name == "files" and not (folder / settings.items).exists():
            raise InputError(
                f"{folder / settings.items}: the data of {trial.variant.name} is not there; "
                f"name its folder with --data"
            )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that the training saves a checkpoint."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
