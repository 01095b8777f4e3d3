"""Splits a data set into a warm one, without the cold items in catalogue and events, and the rest.

Which items are cold: the `newest`, whose first event has the latest time, or the `rarest`, with the
fewest events. Where times are mere positions in the histories (the public Beauty and Office files),
the newest items are those that stand early in nobody's history; of equal times the first event
further down the file is the later one.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.config import DataConfig
from store_engine.data.tables.table import read_table
from store_engine.errors import InputError

RULES = ("newest", "rarest")
_MIN_WARM = 2  # warm events before a cold one that make it an example


class ColdRule(NamedTuple):
    """Which items are held out."""

    name: str
    share: float  # of the items

    @classmethod
    def parse(cls, text: str) -> "ColdRule":
        """Reads NAME:SHARE.

        Raises:
            InputError: It is something else.
        """
        name, _, share = text.partition(":")
        try:
            rule = cls(name, float(share))
        except ValueError:
            rule = cls(name, 0.0)
        if name not in RULES or not 0 < rule.share < 1:
            raise InputError(
                f"--cold is newest:SHARE or rarest:SHARE, a share between 0 and 1; got {text!r}"
            )
        return rule


class Events(NamedTuple):
    """An interactions file, in its order."""

    users: list[str]
    items: list[str]
    times: NDArray[np.int64]  # ranks: a later time has a larger one


@dataclass(frozen=True)
class ColdExamples:
    """Events of cold items, by item ids.

    Args:
        histories: Per event the user's warm items before it, oldest first, two or more.
        targets: Per event its cold item.
    """

    histories: list[list[str]]
    targets: list[str]


def read_events(folder: Path, data: DataConfig) -> Events:
    """Reads the events of a data set.

    Raises:
        InputError: The file cannot be read, or a cell is bad.
    """
    table = read_table(folder / data.interactions, [data.user_id, data.item_id, data.timestamp])
    users, items = table.keys(data.user_id), table.keys(data.item_id)
    times = table.times(data.timestamp)
    table.refuse([*users.bad, *items.bad, *times.bad])
    return Events(
        [users.unique[code] for code in users.codes],
        [items.unique[code] for code in items.codes],
        np.asarray(times.order, dtype=np.int64),
    )


def cold_items(events: Events, item_ids: list[str], rule: ColdRule, seed: int) -> set[str]:
    """Chooses the items to hold out.

    Args:
        events: All events.
        item_ids: The catalogue.
        rule: Which, and which share of the catalogue.
        seed: Orders items that are equally rare.

    Raises:
        InputError: There are fewer items with events than that.
    """
    num_cold = max(1, round(rule.share * len(item_ids)))
    if rule.name == "newest":
        first: dict[str, tuple[int, int]] = {}
        for line, (item, time) in enumerate(zip(events.items, events.times.tolist(), strict=True)):
            first[item] = min(first.get(item, (time, line)), (time, line))
        ordered = sorted(first, key=lambda item: first[item], reverse=True)
    else:
        counts = Counter(events.items)
        ids = [item for item in item_ids if counts[item]]
        shuffled = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
        ordered = sorted(shuffled, key=lambda item: counts[item])
    if num_cold >= len(ordered):
        raise InputError(f"{num_cold} items cannot be held out of {len(ordered)} with events")
    return set(ordered[:num_cold])


def cold_examples(events: Events, cold: set[str], limit: int, seed: int) -> ColdExamples:
    """Collects the events of cold items after two warm ones or more, a fixed sample of them.

    Args:
        events: All events.
        cold: The items held out.
        limit: Examples at most.
        seed: Of the sample.
    """
    order = np.lexsort([events.times])  # stable: of one time the file's order
    seen: dict[str, list[str]] = {}
    found: list[tuple[list[str], str]] = []
    for event in order.tolist():
        history, item = seen.setdefault(events.users[event], []), events.items[event]
        if item not in cold:
            history.append(item)
        elif len(history) >= _MIN_WARM:
            found.append((list(history), item))
    chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
    kept = [found[i] for i in sorted(chosen.tolist())]
    return ColdExamples([history for history, _ in kept], [target for _, target in kept])


def write_split(folder: Path, work: Path, data: DataConfig, cold: set[str]) -> None:
    """Writes WORK/warm (items and events without the cold items) and WORK/cold_items.csv.

    Args:
        folder: Of the data set; its files must be csv.
        work: Where to write.
        data: Names of files and columns.
        cold: The items held out.

    Raises:
        InputError: A file is missing or no csv.
    """
    warm = work / "warm"
    warm.mkdir(parents=True, exist_ok=True)
    for name in (data.items, data.interactions):
        rows = read_csv(folder / name, data.item_id)
        write_csv(warm / name, [row for row in rows if row[data.item_id] not in cold])
        if name == data.items:
            held_out = [row for row in rows if row[data.item_id] in cold]
            write_csv(work / "cold_items.csv", held_out)


def read_csv(path: Path, item_id: str) -> list[dict[str, str]]:
    """Reads the rows of a csv file.

    Raises:
        InputError: It cannot be read, or has no such column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as csv: {error}") from error
    if not rows or item_id not in rows[0]:
        raise InputError(f"{path}: has no column {item_id}, or no row")
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows of the same columns as a csv file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
