"""Found files -> prepared data: staged, cleaned, filtered, ordered and written, out of core.

    raw      events as they stand, all text, in the order of the files (staging.py)
    users    id and number, in the order they first appear
    items    id and number, in the order of the catalogue
    events   numbers of user and item, time, position: no bad rows, unknown items, duplicates
    kept_u   users of the k-core, and kept_i its items
    kept     events of both

Nothing here holds a list of users, items or events in Python.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from store_engine.errors import InputError, shown
from store_engine.prepare.database import Database
from store_engine.prepare.readers.discover import Found
from store_engine.prepare.readers.storage import identifier, literal
from store_engine.prepare.report import Report
from store_engine.prepare.rules import Rules
from store_engine.prepare.steps.core import k_core
from store_engine.prepare.steps.faults import CONTROLS, GoodRows, find_faults, refuse
from store_engine.prepare.steps.items import write_items
from store_engine.prepare.steps.staging import stage_events, stage_items

IMPRESSIONS = "impressions.parquet"
_EVENTS_PER_GIB = 4_000_000  # whose groups are counted in memory
_FEW_ALIKE = 0.001  # share of user ids that differ in capitals alone, of which nothing is said
_POSITION = "(row_number() OVER (ORDER BY first) - 1)::INTEGER"


class Preparation:
    """One preparation: the tables, and the report that fills as they are made.

    Args:
        found: What is read.
        rules: What is kept.
        folder: An empty folder for what does not fit into memory; the caller removes it.
        max_rows: Of events, and of items: the first ones alone are read; 0 is all. Of a part what
            needs all rows is left out: unknown items where the items are cut, and what follows the
            duplicates.
    """

    def __init__(self, found: Found, rules: Rules, folder: Path, max_rows: int = 0) -> None:
        self.rules, self.report = rules, Report(found, rules, max_rows)
        self.report.warnings += [f"not read: {reason}" for reason in found.unread]
        self._folder = folder
        self._database = Database(folder, rules.memory_gib)
        self._good = GoodRows("", "", False)
        self._texts: tuple[str, ...] = ()
        self._user_ranges: list[tuple[int, int]] = []  # first and last, of events that fit at once

    def run(self, out: Path, say: Callable[[str], None]) -> Report:
        """Prepares the data.

        Args:
            out: The folder that interactions.parquet and items.parquet are written to.
            say: Is told of each step as it begins.

        Raises:
            InputError: The data cannot be read, has bad rows or unknown items that the rules do
                not drop, or nothing is left.
        """
        steps: list[tuple[str, Callable[[], None]]] = [
            ("reading", self._stage),
            ("looking for bad rows", self._find_faults),
            ("numbering users and items", self._number),
            ("looking for duplicates", self._drop_duplicates),
        ]
        steps_of_all: list[tuple[str, Callable[[], None]]] = [
            ("k-core", self._k_core),
            ("ordering and writing events", lambda: self._write_events(out)),
            ("cleaning and writing items", lambda: self._write_items(out)),
            ("counting", self._measure),
        ]
        with self._tables():
            for name, step in steps:
                say(name)
                step()
            for name, step in steps_of_all if not self.report.cut else ():
                say(name)
                step()
        return self.report

    def run_items(self, out: Path) -> Report:
        """Prepares the items alone, all of them.

        Args:
            out: The folder that items.parquet is written to.

        Raises:
            InputError: They cannot be read, or have bad rows that the rules do not drop.
        """
        with self._tables():
            self._texts = stage_items(self._database, self._folder, self.report)
            refuse(self._database, self.rules, self.report)
            self._number_items()
            self._write_items(out, is_whole=True)
        return self.report

    @contextlib.contextmanager
    def _tables(self) -> Iterator[None]:
        """Closes the tables in the end, and says what DuckDB could not do with them."""
        try:
            yield
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:400]
            raise InputError(f"{self.report.where}: cannot be read: {reason}") from error
        finally:
            self._database.close()

    def _stage(self) -> None:
        stage_events(self._database, self._folder, self.report)
        self._texts = stage_items(self._database, self._folder, self.report)

    def _find_faults(self) -> None:
        self._good = find_faults(self._database, self.rules, self.report)

    def _number(self) -> None:
        good = self._good.test
        if self.rules.positive:
            (dropped,) = self._database.one(
                f"SELECT count(*) FROM {self._good.relation} WHERE {good} AND NOT is_positive"
            )
            self.report.num_not_positive = dropped
            good += " AND is_positive"
        self._database.execute(
            f"CREATE TABLE users AS SELECT user_id, {_POSITION} AS u FROM (SELECT user_id, "
            f"min(pos) AS first FROM {self._good.relation} WHERE {good} GROUP BY user_id)"
        )
        self._warn_of_capitals()
        self._number_items(good)
        ids = "item_id AS named"
        if self._ids_became_floats(good):
            ids = "regexp_replace(item_id, '[.]0$', '') AS named"
            self.report.notes.append("item ids of the events were floats, such as 12.0: read as 12")
        self._database.execute(
            f"CREATE TABLE events AS SELECT u, i, t, pos FROM "
            f"(SELECT user_id, {ids}, t, pos FROM {self._good.relation} WHERE {good}) "
            f"JOIN users USING (user_id) LEFT JOIN items ON items.item_id = named"
        )
        self._drop_unknown(good, ids)
        refuse(self._database, self.rules, self.report)
        if self.report.found.items is None:
            self._derive_items()
        self._database.execute("DROP TABLE raw")

    def _warn_of_capitals(self) -> None:
        """Warns where many users may be one who wrote an address in two ways."""
        count, one, other = self._database.one(
            "SELECT coalesce(sum(n), 0)::BIGINT, min(one), arg_min(other, one) FROM (SELECT "
            "count(*) AS n, min(user_id) AS one, max(user_id) AS other FROM users "
            "GROUP BY lower(user_id) HAVING count(*) > 1)"
        )
        (num_users,) = self._database.one("SELECT count(*) FROM users")
        if count > _FEW_ALIKE * num_users:
            self.report.warnings.append(
                f"{count:,} user ids differ from another's in capitals alone, such as "
                f"{shown(one)} and {shown(other)}: they are different users unless written alike"
            )

    def _number_items(self, good: str = "") -> None:
        """Numbers the items of the catalogue, else those of good events."""
        source, where = self._good.relation, good
        if self.report.found.items is not None:
            source, where = (
                "(SELECT item_id, rowid AS pos FROM raw_items)",
                f"trim(item_id) <> '' AND NOT regexp_matches(item_id, {CONTROLS})",
            )
        self._database.execute(
            f"CREATE TABLE items AS SELECT item_id, {_POSITION} AS i, first FROM (SELECT item_id, "
            f"min(pos) AS first FROM {source} WHERE {where} GROUP BY item_id)"
        )

    def _ids_became_floats(self, good: str) -> bool:
        """Whether the events call every item 12.0 that the catalogue calls 12."""
        if self.report.found.items is None:
            return False
        (events, items) = self._database.one(
            f"SELECT (SELECT bool_and(regexp_full_match(item_id, '[0-9]+[.]0')) "
            f"FROM {self._good.relation} WHERE {good}), "
            f"(SELECT bool_and(regexp_full_match(item_id, '[0-9]+')) FROM items)"
        )
        return bool(events and items)

    def _drop_unknown(self, good: str, ids: str) -> None:
        (unknown,) = self._database.one("SELECT count(*) FROM events WHERE i IS NULL")
        if "items" in self.report.cut:
            self._database.execute("DELETE FROM events WHERE i IS NULL")
            return
        if not unknown:
            return
        examples = self._database.all(
            f"SELECT named, count(*) FROM (SELECT {ids} FROM {self._good.relation} WHERE {good}) "
            f"ANTI JOIN items ON items.item_id = named GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
        )
        names = ", ".join(f"{shown(name)} ({count:,})" for name, count in examples)
        self.report.num_unknown, self.report.unknown_examples = unknown, names
        self._database.execute("DELETE FROM events WHERE i IS NULL")

    def _derive_items(self) -> None:
        """Items out of the events: the first text that any event of an item has."""
        texts = [identifier(f"text_{name}") for name in self._texts]
        firsts = "".join(
            f", arg_min({t}, raw.rowid) FILTER (trim({t}) <> '') AS {t}" for t in texts
        )
        self._database.execute(
            f"CREATE TABLE raw_items AS SELECT items.item_id{firsts} FROM raw JOIN items USING "
            f"(item_id) GROUP BY items.item_id, items.i ORDER BY items.i"
            if texts
            else "CREATE TABLE raw_items AS SELECT item_id, item_id AS text_title FROM items "
            "ORDER BY i"
        )
        self._database.execute("UPDATE items SET first = i")
        if not self._texts:
            self._texts = ("title",)
            self.report.warnings.append("no file describes the items: their ids are their titles")

    def _drop_duplicates(self) -> None:
        if not self._good.has_time:  # without times, again is a repeat and no duplicate
            return
        (total,) = self._database.one("SELECT count(*) FROM events")
        if self.rules.duplicates == "keep":
            unique = "SELECT DISTINCT u, i, t FROM events"
            (count,) = self._database.one(f"SELECT count(*) FROM ({unique})")
        else:
            self._database.execute(
                "CREATE TABLE unique_events AS SELECT u, i, t, min(pos) AS pos FROM events "
                "GROUP BY u, i, t"
            )
            self._database.execute("DROP TABLE events")
            self._database.execute("ALTER TABLE unique_events RENAME TO events")
            (count,) = self._database.one("SELECT count(*) FROM events")
        self.report.num_duplicates = total - count

    def _k_core(self) -> None:
        """Finds the users and items that have enough events."""
        rules, report, sizes = self.rules, self.report, []
        for table in ("users", "items"):
            (size,) = self._database.one(f"SELECT count(*) FROM {table}")
            sizes.append(size)
        core = k_core(
            lambda: self._database.arrays("SELECT u, i FROM events"),
            (sizes[0], sizes[1]),
            (rules.min_user, rules.min_item),
        )
        report.num_users_read, report.num_items_seen = core.num_users_seen, core.num_items_seen
        report.num_rounds, report.num_users = core.num_rounds, len(np.flatnonzero(core.users))
        if not core.num_users_seen:
            reasons = "; ".join(report.left_out())
            raise InputError(f"{report.where}: every event is left out: {reasons}")
        if not (core.users.any() and core.items.any()):
            raise InputError(
                f"no user and item is left with --min-user {rules.min_user} and --min-item "
                f"{rules.min_item}; there were {report.num_users_read:,} users and "
                f"{report.num_items_seen:,} items with events"
            )
        for column, name, counts in (("u", "user", core.users), ("i", "item", core.items)):
            numbers = np.flatnonzero(counts).astype(np.int32)
            self._database.make_table(f"kept_{column}", column, numbers)
            report.lengths[f"events per {name}"] = _summary(counts[numbers])
        ends = core.users.cumsum(dtype=np.int64)
        size = int(_EVENTS_PER_GIB * rules.memory_gib)
        cuts = np.searchsorted(ends, np.arange(size, ends[-1] + size, size), side="left").tolist()
        self._user_ranges = list(zip([0, *(cut + 1 for cut in cuts)], cuts, strict=False))

    def _write_events(self, out: Path) -> None:
        (total,) = self._database.one("SELECT count(*) FROM events")
        self._database.execute(
            "CREATE TABLE kept AS SELECT u, i, t, pos FROM events "
            "SEMI JOIN kept_u USING (u) SEMI JOIN kept_i USING (i)"
        )
        self._database.execute("DROP TABLE events")
        (count,) = self._database.one("SELECT count(*) FROM kept")
        self.report.num_events, self.report.num_core_dropped = count, total - count
        order = "pos"
        if self.rules.ties == "shuffle":
            order = f"md5_number_lower(concat({self.rules.seed}, ':', pos))"
        at = "pos" if not self._good.has_time else "t"
        self._database.execute(
            f"COPY (SELECT user_id, item_id, {at} AS timestamp FROM kept "
            f"JOIN users USING (u) JOIN items USING (i) ORDER BY u, {at}, {order}) "
            f"TO {literal(str(out / 'interactions.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )
        if self._database.has_table("impressions"):
            (self.report.num_shown,) = self._database.one(
                f"COPY (SELECT impressions.* FROM impressions SEMI JOIN items USING (item_id)) TO "
                f"{literal(str(out / IMPRESSIONS))} (FORMAT parquet, COMPRESSION zstd)"
            )

    def _write_items(self, out: Path, is_whole: bool = False) -> None:
        kept = "" if is_whole or self.rules.min_item == 0 else "SEMI JOIN kept_i USING (i)"
        texts = ", ".join(identifier(f"text_{name}") for name in self._texts)
        rows = self._database.execute(
            f"SELECT items.item_id, {texts} FROM items "
            f"JOIN raw_items ON raw_items.rowid = items.first "
            f"{kept} ORDER BY items.i"
        )
        write_items(rows, self._texts, out / "items.parquet", self.report)

    def _measure(self) -> None:
        """Counts what describes the kept events."""
        for first, last in self._user_ranges:
            own = f"FROM kept WHERE u BETWEEN {first} AND {last}"
            (repeats,) = self._database.one(
                f"SELECT (SELECT count(*) {own}) - count(*) FROM (SELECT DISTINCT u, i {own})"
            )
            self.report.num_repeats += repeats
            if self._good.has_time:
                (ties,) = self._database.one(
                    f"SELECT coalesce(sum(n), 0)::BIGINT FROM "
                    f"(SELECT count(*) AS n {own} GROUP BY u, t HAVING count(*) > 1)"
                )
                self.report.num_ties += ties
        if self._good.has_time:
            first, last = self._database.one("SELECT min(t)::VARCHAR, max(t)::VARCHAR FROM kept")
            self.report.first_time, self.report.last_time = first, last


def _summary(counts: NDArray[np.int32]) -> tuple[float, ...]:
    """Least, median, 95 % quantile, most and mean."""
    ordered = np.sort(counts)
    ranks = [max(1, math.ceil(share * len(ordered))) - 1 for share in (0.5, 0.95)]
    return (
        *(int(ordered[place]) for place in (0, *ranks, -1)),
        float(ordered.mean()),
    )
