"""A run's item-item evidence, counted anew with the events since its training; no training.

What is measured stays: evaluation goes on with `evidence.npz`, which has not seen the test. What is
served is `evidence_now.npz` from then on.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from store_engine.data.report import DataReport
from store_engine.errors import InputError
from store_engine.runs.later_files import LaterFiles
from store_engine.runs.run import Run, load_run
from store_engine.runs.run_directory import RunDirectory


class NewerEvidence(NamedTuple):
    """What was counted."""

    num_events: int
    num_new_events: int  # of these, those that came to the run's own
    num_unknown: int  # more, of items that the run has not: left out
    num_votes: int
    notes: tuple[str, ...] = ()  # of reading the file


def update_evidence(
    run_dir: str | Path,
    interactions: str | Path | None = None,
    unknown_items: Literal["error", "drop"] = "error",
) -> NewerEvidence:
    """Counts all of a run's events and new ones, by the weights that validation chose.

    Args:
        run_dir: A finished run with evidence.
        interactions: A file of all events since it was trained, with the columns of its data,
            or raw as `prepare` read those; None: there are none.
        unknown_items: Events of items that the run has not are an error, or left out.

    Raises:
        InputError: The run has no evidence, another process writes to it, or the file is wrong.
    """
    from store_engine.collaborative.fit_evidence import updated

    load_run(run_dir)
    with RunDirectory.open_to_write(run_dir) as directory:
        run = Run(directory)
        fitted, config = run.training_evidence, run.config
        if fitted is None:
            raise InputError(
                f"{run_dir}: has no item-item evidence to count anew (it was trained with "
                f"decoding.evidence = 'none', or imported without the events behind it)"
            )
        events, report = run.histories, DataReport()
        if interactions is not None:
            files = LaterFiles(run, config.data, report)
            _, later = files.events(Path(interactions), run.catalog, unknown_items)
            events = events.followed_by(later)
        newer = updated(fitted, events, run.catalog, config.evidence, config.train.seed)
        with directory.writing(directory.evidence_now):
            newer.save(directory.evidence_now)
    num_new = events.num_events - run.histories.num_events
    num_votes, notes = len(newer.data), tuple(report.notes)
    return NewerEvidence(events.num_events, num_new, report.num_unknown, num_votes, notes)
