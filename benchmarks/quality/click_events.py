"""Ratings of films in the order of time: who liked what, and how well that was foretold."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.data.movielens import FILES
from store_engine.data.packing import IntArray
from store_engine.data.readers import read_items
from store_engine.data.tables.table import read_table
from store_engine.evaluation.metrics import auc, gauc, log_loss

TEXT_FIELDS = ("movie_title", "class", "release_year")
POSITIVE = 4.0  # the lowest rating that counts as YES
TRAIN, VALID, TEST = range(3)
SHARES = (0.8, 0.9)  # of the events, in time, at which validation and test begin

Floats = NDArray[np.float64]


class Events(NamedTuple):
    """Ratings by user, then time."""

    users: IntArray
    rows: IntArray  # of the catalogue
    labels: IntArray  # 1 = YES
    times: IntArray  # places in the order of time over all users, 0 the earliest
    periods: IntArray  # TRAIN, VALID or TEST

    @property
    def offsets(self) -> IntArray:
        """(num_users + 1,) where each user's events begin."""
        return np.r_[0, np.bincount(self.users).cumsum()]


def load_events(folder: Path) -> tuple[Catalog, Events]:
    """Reads films and ratings, and splits these by time."""
    catalog = read_items(folder / FILES[1], "item_id", TEXT_FIELDS)
    table = read_table(folder / FILES[0], ["user_id", "item_id", "timestamp", "rating"])
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    items, users = table.keys("item_id"), table.keys("user_id").codes.astype(np.int64)
    rows = np.array([row_of[item_id] for item_id in items.unique])[items.codes]
    labels = np.array([float(str(value)) >= POSITIVE for value in table.columns["rating"]])
    clock = table.times("timestamp").order
    times = np.empty(len(rows), dtype=np.int64)
    times[np.argsort(clock, kind="stable")] = np.arange(len(rows))
    # all events of one moment are of one period
    begins = np.sort(clock)[[int(share * len(rows)) for share in SHARES]]
    periods = np.searchsorted(begins, clock, side="right")
    order = np.lexsort([times, users])
    arrays = (users, rows, labels.astype(np.int64), times, periods)
    return catalog, Events(*(array[order] for array in arrays))


def measure(chances: Floats, events: Events, period: int) -> dict[str, float]:
    """AUC, GAUC by user and LogLoss over one period."""
    of = events.periods == period
    scores, labels = chances[of], events.labels[of]
    return {
        "auc": auc(scores, labels),
        "gauc": gauc(scores, labels, events.users[of]),
        "log_loss": log_loss(scores, labels),
    }
