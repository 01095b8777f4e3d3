"""What users were shown, clicked or not: what scoring learns from, split as their histories are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.data.histories import TEST, VALID
from store_engine.data.readers import EventColumns
from store_engine.data.split import Split
from store_engine.data.tables.bad_rows import BadRows
from store_engine.data.tables.lines import shown
from store_engine.data.tables.table import Table, read_table
from store_engine.data.tables.times import read_times_together
from store_engine.extras import needs

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Impressions:
    """Items that users were shown after at least one event, by user and time.

    Args:
        users: (num_shown,) int64, position of the user in the histories, ascending.
        places: (num_shown,) int64, events of the user before that moment: they are the history.
        rows: (num_shown,) int64, catalogue row of the item.
        labels: (num_shown,) int64, 1 where it was clicked, else 0.
        periods: (num_shown,) int8, TRAIN, VALID or TEST, where the moment lies in the split.
    """

    users: IntArray
    places: IntArray
    rows: IntArray
    labels: IntArray
    periods: NDArray[np.int8]

    def documents(self, num_users: int, last: np.int8) -> Iterator[IntArray]:
        """Writes what may be learnt from, a document per user: place, row and label of each item.

        Args:
            num_users: Of the histories.
            last: The latest period that counts.
        """
        is_kept = self.periods <= last
        triples = np.stack([self.places, self.rows, self.labels], axis=1)[is_kept]
        ends = np.searchsorted(self.users[is_kept], np.arange(num_users + 1))
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            yield triples[begin:end].ravel()


def read_impressions(
    path: Path, interactions: Path, columns: EventColumns, catalog: Catalog, split: Split
) -> Impressions:
    """Reads what users were shown, and finds its place in their histories.

    Args:
        path: A table with the columns user_id, item_id, timestamp and label (1 where the user
            clicked), such as impressions.parquet of `store-engine prepare`.
        interactions: The file that the histories were read from: it has the times of the events.
        columns: Its columns.
        catalog: The items; what was shown of others is left out, as of users without a history.
        split: Of the histories. What was shown before the last training event of a user, and where
            the split has points in time before those, is of the training.

    Raises:
        InputError: A file cannot be read, a label is neither 0 nor 1, or its times and those of
            the events are of different forms.
    """
    with needs(str(path)):
        table = read_table(path, ["user_id", "item_id", "timestamp", "label"])
        events = read_table(interactions, [columns.user_id, columns.timestamp])
    users, items = table.keys("user_id"), table.keys("item_id")
    event_times, times = read_times_together(
        (events.columns[columns.timestamp], table.columns["timestamp"]), "timestamp"
    )
    clicked, wrong = read_clicks(table)
    table.refuse([*users.bad, *items.bad, *times.bad, *wrong])
    histories = split.histories
    user_of = {user_id: user for user, user_id in enumerate(histories.user_ids)}
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    keys = events.keys(columns.user_id)
    of_events, is_event = _known(keys.unique, user_of, keys.codes)
    of_shown, is_user = _known(users.unique, user_of, users.codes)
    rows, is_item = _known(items.unique, row_of, items.codes)
    is_known = is_user & is_item
    when = (event_times.order[is_event], times.order[is_known])
    who = (of_events[is_event], of_shown[is_known])
    if len(who[0]) != histories.num_events:
        raise ValueError(f"{interactions}: holds other events than the histories")
    before, until = (_events_before(who, when, is_shown_first) for is_shown_first in (True, False))
    periods = split.periods[np.maximum(until, 1) - 1 + histories.offsets[who[1]]]
    if histories.periods is not None:
        by_place = when[0][np.lexsort([when[0], who[0]])]
        for period in (VALID, TEST):
            begins = by_place[histories.periods >= period].min()
            periods[when[1] >= begins] = np.maximum(periods[when[1] >= begins], period)
    order = np.lexsort([when[1], who[1]])
    order = order[before[order] > 0]
    labels = clicked[is_known].astype(np.int64)
    return Impressions(
        who[1][order], before[order], rows[is_known][order], labels[order], periods[order]
    )


def read_clicks(table: Table) -> tuple[NDArray[np.bool_], list[BadRows]]:
    """Reads the column label: which rows were clicked, and the first that has neither 0 nor 1."""
    labels = np.array([str(value) for value in table.columns["label"]])
    is_wrong = ~np.isin(labels, ["0", "1"])
    return labels == "1", [
        BadRows(
            int(row), f"label must be 0 or 1, got {shown(str(labels[row]))}", int(is_wrong.sum())
        )
        for row in np.flatnonzero(is_wrong)[:1]
    ]


def _known(
    unique: list[str], places: dict[str, int], codes: IntArray
) -> tuple[IntArray, NDArray[np.bool_]]:
    """The place of each row's id, and whether it has one."""
    found = np.array([places.get(one, -1) for one in unique], dtype=np.int64)[codes]
    return found, found >= 0


def _events_before(
    who: tuple[IntArray, IntArray], when: tuple[NDArray, NDArray], is_shown_first: bool
) -> IntArray:
    """Counts for each item that was shown the events of its user before it.

    Args:
        who: Users of the events, and of what was shown.
        when: Their times.
        is_shown_first: What has the same time as an event comes before it, else behind it.
    """
    num_events = len(who[0])
    is_event = np.arange(num_events + len(who[1])) < num_events
    users = np.concatenate(who)
    order = np.lexsort([is_event == is_shown_first, np.concatenate(when), users])
    passed = np.empty(len(order), dtype=np.int64)
    passed[order] = is_event[order].cumsum()
    earlier = np.searchsorted(np.sort(who[0]), who[1])  # events of the users before
    counts: IntArray = passed[num_events:] - earlier
    return counts
