"""Click-through among what users were really shown, as MIND's impressions have it.

A test user's candidates are what the user was shown beside the item that is to be found: those
without a click, against the one that was clicked. The history is the test's. A run without
`data.impressions` learnt to score from random items beside the next one; what was shown is harder
to tell apart.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.data.catalog import Catalog
from store_engine.data.impressions import read_clicks
from store_engine.data.split import Split
from store_engine.data.tables.table import read_table
from store_engine.errors import InputError
from store_engine.evaluation.metrics import auc, gauc, log_loss
from store_engine.evaluation.scoring import Scorer

_COLUMNS = ("impression_id", "user_id", "item_id", "timestamp", "label")
_K = 5

IntArray = NDArray[np.int64]


class Shown(NamedTuple):
    """Candidates of test users, one after the other."""

    examples: IntArray  # (num_candidates,) which of the test's examples
    rows: IntArray  # (num_candidates,) catalogue rows
    labels: IntArray  # (num_candidates,) 1 for the item that is to be found, else 0


def read_shown(path: str | Path, split: Split, catalog: Catalog) -> Shown:
    """Reads what test users were shown beside the item that is to be found.

    Args:
        path: A table with the columns impression_id, user_id, item_id, timestamp and label (1 where
            the user clicked), such as impressions.parquet of `store-engine prepare`.
        split: Of the run.
        catalog: Of the run; items that it lacks are left out.

    Returns:
        Of each test user the candidates of the latest impression in which the item that is to be
        found was clicked; other items that were clicked there are left out. Users without such an
        impression have none.

    Raises:
        InputError: The file cannot be read, or a label is neither 0 nor 1.
    """
    table = read_table(path, _COLUMNS)
    users, items, ids = (table.keys(name) for name in ("user_id", "item_id", "impression_id"))
    times = table.times("timestamp")
    clicked, wrong = read_clicks(table)
    table.refuse([*users.bad, *items.bad, *ids.bad, *times.bad, *wrong])
    order, tested = times.order, split.histories.user_ids
    example_of = {tested[user]: n for n, user in enumerate(split.users_of(split.test_events))}
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    example = _looked_up(users.unique, example_of)[users.codes]
    row = _looked_up(items.unique, row_of)[items.codes]
    is_known = (example >= 0) & (row >= 0)
    is_target = is_known & (row == split.test.targets[example])
    chosen = np.full(len(split.test_events), -1, dtype=np.int64)  # the impression of each example
    hits = np.flatnonzero(is_target & clicked)
    hits = hits[np.argsort(order[hits], kind="stable")]
    chosen[example[hits]] = ids.codes[hits]  # the last one stays
    # a target that the same impression has twice is one candidate, the clicked one
    is_kept = is_known & (ids.codes == chosen[example]) & (clicked == is_target)
    return Shown(example[is_kept], row[is_kept], clicked[is_kept].astype(np.int64))


def measure_impressions(scorer: Scorer, split: Split, found: Shown) -> dict[str, float]:
    """Measures a scorer on what users were shown.

    Args:
        scorer: The model.
        split: Of the run.
        found: The candidates.

    Returns:
        `num_impressions`, `num_shown`, `auc` over all candidates, `gauc` within each impression,
        `log_loss`, and `ndcg@5` of each impression's ranking, where equal scores share a place.

    Raises:
        InputError: No test user was shown the item that is to be found.
    """
    if not found.labels.any() or found.labels.all():
        raise InputError("no impression shows the item that is to be found beside another")
    histories = [split.test.histories[example] for example in found.examples.tolist()]
    chances = scorer.probabilities(histories, found.rows)
    own = np.full(len(split.test.targets), -np.inf)
    own[found.examples[found.labels == 1]] = chances[found.labels == 1]
    others, users = chances[found.labels == 0], found.examples[found.labels == 0]
    better = np.bincount(users, (others > own[users]) + (others == own[users]) / 2, len(own))
    ranks = better[own > -np.inf]
    return {
        "num_impressions": len(ranks),
        "num_shown": len(found.rows),
        "auc": auc(chances, found.labels),
        "gauc": gauc(chances, found.labels, found.examples),
        "log_loss": log_loss(chances, found.labels),
        f"ndcg@{_K}": float(np.where(ranks < _K, 1 / np.log2(ranks + 2), 0).mean()),
    }


def _looked_up(ids: "list[str]", places: dict[str, int]) -> IntArray:
    return np.array([places.get(one, -1) for one in ids], dtype=np.int64)
