"""What a run's journal means to the run that goes on from it."""

from pathlib import Path

from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.live.changes import Event, EventsAdded, ItemsAdded, ItemsRemoved, UserForgotten
from store_engine.live.journal import Journal
from store_engine.runs.continued import LaterChanges
from store_engine.runs.run_directory import RunDirectory


def changes_since_training(run_dir: str | Path) -> LaterChanges:
    """Reads the journal of a run; a run without one has seen no changes.

    Raises:
        InputError: It is no run, or its journal is damaged.
    """
    events: list[Event] = []
    removed: set[str] = set()
    added: set[str] = set()
    forgotten: set[str] = set()
    journal = Journal.open(run_dir)
    try:
        for change in journal.changes():
            match change.what:
                case ItemsAdded(items):
                    added.update(items.item_ids)
                    removed.difference_update(items.item_ids)
                case ItemsRemoved(item_ids):
                    removed.update(item_ids)
                case EventsAdded(more):
                    events += more
                case UserForgotten() as user:
                    forgotten.add(user.user_sha256)
                    events = [event for event in events if not user.is_about(event.user_id)]
    finally:
        journal.close()
    # stable: of equal times the one that was added later is the later
    in_order = sorted(events, key=lambda event: event.time)
    return LaterChanges(
        tuple((event.user_id, event.item_id) for event in in_order),
        tuple(sorted(removed)),
        frozenset(forgotten),
        tuple(sorted(added - removed)),
    )


def remove_again(run: RunDirectory) -> None:
    """Removes from a run what had been removed from the one that it went on from.

    Args:
        run: A run with SIDs, whose lock this process holds.

    Raises:
        InputError: The list or the journal is damaged.
    """
    if not run.start_removed.exists() or run.journal.exists():
        return
    ids = read_json(run.start_removed).get("item_ids")
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise InputError(f"{run.start_removed}: must state item_ids, a list of texts")
    journal = Journal(run)
    journal.append(ItemsRemoved(tuple(ids)))
    journal.close(keep_lock=True)
