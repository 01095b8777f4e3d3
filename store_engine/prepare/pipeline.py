"""Found files -> prepared data: staged, cleaned, filtered, ordered and written, out of core.

DuckDB keeps every table in a file and spills what does not fit its share of memory; nothing here
holds a list of users, items or events in Python.

    raw      events as they stand, all text, in the order of the files
    users    id and number, in the order they first appear
    items    id and number, in the order of the catalogue
    events   numbers of user and item, time, position: without bad rows, unknown items, duplicates
    kept_u   users of the k-core, and kept_i its items
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from store_engine.errors import InputError, shown
from store_engine.prepare.card import Report
from store_engine.prepare.readers.discover import Found, Table
from store_engine.prepare.items import write_items
from store_engine.prepare.positive import Positive, parse_positive
from store_engine.prepare.readers.sources import (
    event_rows,
    item_fields,
    item_rows,
    mind_impressions,
    without_literals,
)
from store_engine.prepare.readers.storage import identifier, literal
from store_engine.prepare.readers.times import TimeForm, choose_time_form, foreign_units

_CONTROLS = "'[\\x00-\\x1f\\x7f]'"
_MAX_ROUNDS = 10_000
_WATCHED = {
    "quantity": "<= 0", "qty": "<= 0", "amount": "<= 0", "units": "<= 0", "price": "< 0",
    "total": "< 0", "returned": "true", "isreturn": "true", "returns": "> 0", "refunded": "true",
    "isrefund": "true", "cancelled": "true", "canceled": "true", "deleted": "true",
    "status": "values", "orderstatus": "values", "event": "values", "eventtype": "values",
    "action": "values", "behavior": "values", "behaviour": "values", "behaviortype": "values",
    "isread": "false",
}  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Args:
        min_user: Users with fewer events are dropped.
        min_item: Items with fewer events are dropped; 0 keeps also those without any.
        on_error: Bad rows end the work, or are dropped; both after all are counted.
        unknown_items: Events of items that the catalogue lacks end the work, or are dropped.
        duplicates: The same user, item and time again is dropped, or kept.
        positive: Which events count, an expression (positive.py); "" is all.
        time_format: A format of strptime for the times; "" finds one.
        ties: What orders a user's events of one time: the files, or chance.
        seed: For `ties="shuffle"`.
        memory_gib: What DuckDB may hold in memory.
    """

    min_user: int = 3
    min_item: int = 0
    on_error: Literal["stop", "drop"] = "stop"
    unknown_items: Literal["error", "drop"] = "error"
    duplicates: Literal["drop", "keep"] = "drop"
    positive: str = ""
    time_format: str = ""
    ties: Literal["file", "shuffle"] = "file"
    seed: int = 0
    memory_gib: float = 2.0

    def __post_init__(self) -> None:
        """Refuses what leaves nothing to split."""
        if self.min_user < 1 or self.min_item < 0:
            raise InputError(
                f"--min-user must be at least 1 and --min-item at least 0, "
                f"got {self.min_user} and {self.min_item}"
            )
        if not 0.25 <= self.memory_gib <= 4096:
            raise InputError(f"--memory must be from 0.25 to 4096 GiB, got {self.memory_gib}")


class Preparation:
    """One preparation: the tables in a DuckDB file, and the report that fills as they are made.

    Args:
        found: What is read.
        rules: What is kept.
        folder: An empty folder for what does not fit into memory; the caller removes it.
    """

    def __init__(self, found: Found, rules: Rules, folder: Path) -> None:
        self.rules, self.report = rules, Report(found, rules)
        self._positive = parse_positive(rules.positive) if rules.positive else None
        self._folder = folder
        self._found = found
        self._connection = _connect(folder, rules.memory_gib)
        self._time: TimeForm | None = None
        self._texts: tuple[str, ...] = ()
        self._is_good = "true"  # SQL of a row of _rows

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
            ("reading events", self._stage_events),
            ("reading items", self._stage_items),
            ("looking for bad rows", self._count_bad),
            ("numbering users and items", self._number),
            ("looking for duplicates", self._drop_duplicates),
            ("k-core", self._k_core),
            ("ordering and writing events", lambda: self._write_events(out)),
            ("cleaning and writing items", lambda: self._write_items(out)),
            ("counting", self._measure),
        ]
        try:
            for name, step in steps:
                say(name)
                step()
        except duckdb.Error as error:
            raise InputError(f"{self._where()}: cannot be read: {_line(error)}") from error
        finally:
            self._connection.close()
        return self.report

    def _stage_events(self) -> None:
        table, bad = without_literals(self._found.events, self._folder)
        self._note_literals(bad)
        watched = self._watched(table)
        computed = {f"watch_{n}": f"{identifier(n)}" for n in watched}
        reads = [*watched]
        if self._positive is not None:
            self._require_columns(table, self._positive)
            computed["is_positive"] = self._positive.sql
            reads += self._positive.columns
        nested = table.layout is not None and table.layout.expand == "nested"
        if self._found.items is None:
            self._texts = table.roles.texts
            if not nested:
                computed |= {f"text_{name}": identifier(name) for name in self._texts}
                reads += self._texts
        self._execute(f"CREATE TABLE raw AS {event_rows(table, computed, reads)}")
        self._note_rejects()
        (num_rows,) = self._one("SELECT count(*) FROM raw")
        self.report.num_read = num_rows
        if not num_rows:
            raise InputError(f"{self._where()}: no event could be read{self._bad_sentence()}")
        self._warn(watched)
        if table.layout is not None and table.layout.expand == "mind":
            self._execute(f"CREATE TABLE impressions AS {mind_impressions(table)}")
            self.report.notes.append(
                "clicks before the log have no times: they stand a second apart before a user's "
                "first line"
            )

    def _watched(self, table: Table) -> list[str]:
        """Columns that may say of an event that it is none, as a return in a list of orders."""
        if table.layout is not None or table.sequence:
            return []
        tested = () if self._positive is None else self._positive.columns
        plain = {n: "".join(filter(str.isalnum, n.lower())) for n in table.storage.columns}
        roles = {table.roles.user, table.roles.item, table.roles.time}
        return [n for n, p in plain.items() if p in _WATCHED and n not in {*roles, *tested}]

    def _warn(self, watched: list[str]) -> None:
        for name in watched:
            rule = _WATCHED["".join(filter(str.isalnum, name.lower()))]
            column = identifier(f"watch_{name}")
            if rule == "values":
                values = self._all(
                    f"SELECT {column}, count(*) FROM raw WHERE {column} <> '' "
                    f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
                )
                if len(values) > 1:
                    listed = ", ".join(f"{shown(v)} {n:,}" for v, n in values)
                    hint = f"--positive \"{_quoted(name)} = '{values[0][0]}'\" keeps those alone"
                    self.report.warnings.append(f"{name} has values {listed}: {hint}")
                continue
            if rule in ("true", "false"):
                words = "('true','1','yes','t','y')" if rule == "true" else "('false','0','no')"
                test, keep = f"lower(trim({column})) IN {words}", f"!= {rule}"
                first = self._all(f"SELECT {column} FROM raw WHERE {test} LIMIT 1")
                keep = f"!= '{first[0][0]}'" if first else keep
            else:
                test = f"try_cast({column} AS DOUBLE) {rule}"
                keep = {"<= 0": "> 0", "< 0": ">= 0", "> 0": "<= 0"}[rule]
            (count,) = self._one(f"SELECT count(*) FROM raw WHERE {test}")
            if count:
                share = f"{count:,} of {self.report.num_read:,} events ({count / self.report.num_read:.1%})"
                hint = f'--positive "{_quoted(name)} {keep}" leaves them out'
                what = rule if rule in ("true", "false") else rule
                self.report.warnings.append(f"{name} is {what} in {share}: {hint}")

    def _require_columns(self, table: Table, positive: Positive) -> None:
        missing = [n for n in positive.columns if n not in table.storage.columns]
        plain = table.layout is None or table.layout.expand == "rows"
        if missing or not plain or table.storage.kind == "lines":
            what = f"no column {missing[0]!r}" if missing else "no plain columns"
            names = ", ".join(table.storage.columns[:50])
            raise InputError(f"--positive: {self._where()} has {what}; columns: {names}")

    def _stage_items(self) -> None:
        if self._found.items is None:
            return
        table, bad = without_literals(self._found.items, self._folder)
        self._note_literals(bad)
        self._texts = item_fields(table)
        if not self._texts:
            raise InputError(
                f"{table.storage.files[0]}: no column holds text; --text names some; "
                f"columns: {', '.join(table.storage.columns[:50])}"
            )
        self._execute(f"CREATE TABLE raw_items AS {item_rows(table)}")
        self._note_rejects()
        (total, empty, wild) = self._one(
            f"SELECT count(*), count(*) FILTER (coalesce(trim(item_id), '') = ''), "
            f"count(*) FILTER (regexp_matches(item_id, {_CONTROLS})) FROM raw_items"
        )
        (unique,) = self._one("SELECT count(DISTINCT item_id) FROM raw_items WHERE trim(item_id) <> ''")
        self.report.num_items_read = total
        self.report.add_bad("items without an id", empty)
        self.report.add_bad("item ids with a control character", wild)
        self.report.add_bad("items whose id an earlier row has", total - empty - unique)

    def _count_bad(self) -> None:
        self._choose_time()
        kinds = self._bad_kinds()
        cases = " ".join(f"WHEN {test} THEN {n}" for n, test in enumerate(kinds.values()))
        fault = f"CASE {cases} END"  # the first that fits; a NULL is no fit
        names = list(kinds)
        counts = self._all(
            f"SELECT fault, count(*), min(pos) FROM (SELECT {fault} AS fault, pos FROM {self._rows}) "
            f"WHERE fault IS NOT NULL GROUP BY fault ORDER BY fault"
        )
        for number, count, first in counts:
            self.report.add_bad(names[number], count, f"row {first + 1:,}")
        self._is_good = f"({fault}) IS NULL" if counts else "true"

    def _refuse(self) -> None:
        """Ends the work where the rules do not drop what is bad or unknown: all of it in one line."""
        faults = []
        if self.report.bad and self.rules.on_error == "stop":
            faults.append(f"bad rows{self._bad_sentence()}; --on-error drop leaves them out")
        if self.report.num_unknown and self.rules.unknown_items == "error":
            (known,) = self._one("SELECT count(*) FROM items")
            faults.append(
                f"{self.report.num_unknown:,} events name items that the {known:,} of the catalogue "
                f"lack, most often {self.report.unknown_examples}; --unknown-items drop leaves them out"
            )
        if faults:
            raise InputError(f"{self._where()}: {'; '.join(faults)}")

    @property
    def _rows(self) -> str:
        """SQL of raw with position and time."""
        at = "NULL::BIGINT" if self._time is None else self._time.sql.replace("{}", "time")
        return f"(SELECT *, rowid AS pos, {at} AS t FROM raw)"

    def _choose_time(self) -> None:
        if not self._found.events.roles.time:
            self.report.time_form = "none: the order of the files"
            return
        self._time = choose_time_form(self._connection, "raw", "time", self.rules.time_format)
        self.report.time_form = self._time.name
        if self._time.note:
            self.report.warnings.append(self._time.note)

    def _bad_kinds(self) -> dict[str, str]:
        """Kinds of bad rows -> SQL that is true of such a row."""
        user, item = "coalesce(trim(user_id), '') = ''", "coalesce(trim(item_id), '') = ''"
        kinds = {
            "rows that are no event": f"{user} AND {item}",
            "no user id (guests)": user,
            "no item id": item,
            "an id with a control character":
                f"regexp_matches(concat(user_id, item_id), {_CONTROLS})",
        }  # fmt: skip
        if self._time is not None:
            kinds["no time"] = "coalesce(trim(time), '') = ''"
            kinds[f"a time of another form than {self._time.name}"] = "t IS NULL"
            if self._time.name == "whole numbers":
                kinds |= foreign_units(self._connection, "raw", "time")
        if self._positive is not None:
            kinds["a value of --positive that is missing or no number"] = "is_positive IS NULL"
        return kinds

    def _number(self) -> None:
        good = self._is_good
        if self._positive is not None:
            (dropped,) = self._one(f"SELECT count(*) FROM {self._rows} WHERE {good} AND NOT is_positive")
            self.report.num_not_positive = dropped
            good += " AND is_positive"
        self._execute(
            f"CREATE TABLE users AS SELECT user_id, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS u "
            f"FROM (SELECT user_id, min(pos) AS first FROM {self._rows} WHERE {good} GROUP BY user_id)"
        )
        source, where = self._rows, good
        if self._found.items is not None:
            source, where = "(SELECT item_id, rowid AS pos FROM raw_items)", "trim(item_id) <> ''"
        self._execute(
            f"CREATE TABLE items AS SELECT item_id, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS i, "
            f"first FROM (SELECT item_id, min(pos) AS first FROM {source} WHERE {where} GROUP BY item_id)"
        )
        ids = "item_id AS named"
        if self._ids_became_floats(good):
            ids = "regexp_replace(item_id, '[.]0$', '') AS named"
            self.report.notes.append("item ids of the events were floats, such as 12.0: read as 12")
        self._execute(
            f"CREATE TABLE events AS SELECT u, i, t, pos FROM "
            f"(SELECT user_id, {ids}, t, pos FROM {self._rows} WHERE {good}) "
            f"JOIN users USING (user_id) LEFT JOIN items ON items.item_id = named"
        )
        self._drop_unknown(good, ids)
        self._refuse()
        if self._found.items is None:
            self._derive_items()
        self._execute("DROP TABLE raw")

    def _ids_became_floats(self, good: str) -> bool:
        """Whether the events call every item 12.0 that the catalogue calls 12."""
        if self._found.items is None:
            return False
        (events, items) = self._one(
            f"SELECT (SELECT bool_and(regexp_full_match(item_id, '[0-9]+[.]0')) FROM {self._rows} WHERE {good}), "
            f"(SELECT bool_and(regexp_full_match(item_id, '[0-9]+')) FROM items)"
        )
        return bool(events and items)

    def _drop_unknown(self, good: str, ids: str) -> None:
        (unknown,) = self._one("SELECT count(*) FROM events WHERE i IS NULL")
        if not unknown:
            return
        examples = self._all(
            f"SELECT named, count(*) FROM (SELECT {ids} FROM {self._rows} WHERE {good}) "
            f"ANTI JOIN items ON items.item_id = named GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
        )
        names = ", ".join(f"{shown(name)} ({count:,})" for name, count in examples)
        self.report.num_unknown, self.report.unknown_examples = unknown, names
        self._execute("DELETE FROM events WHERE i IS NULL")

    def _derive_items(self) -> None:
        """Items out of the events: the first text that any event of an item has."""
        texts = [identifier(f"text_{name}") for name in self._texts]
        firsts = "".join(f", arg_min({t}, raw.rowid) FILTER (trim({t}) <> '') AS {t}" for t in texts)
        self._execute(
            f"CREATE TABLE raw_items AS SELECT items.item_id{firsts} FROM raw JOIN items USING "
            f"(item_id) GROUP BY items.item_id, items.i ORDER BY items.i"
            if texts
            else "CREATE TABLE raw_items AS SELECT item_id, item_id AS text_title FROM items ORDER BY i"
        )
        self._execute("UPDATE items SET first = i")
        if not self._texts:
            self._texts = ("title",)
            self.report.warnings.append("no file describes the items: their ids are their titles")

    def _drop_duplicates(self) -> None:
        if self._time is None:  # without times, again is a repeat and no duplicate
            return
        (total,) = self._one("SELECT count(*) FROM events")
        if self.rules.duplicates == "keep":
            unique = "SELECT DISTINCT u, i, t FROM events"
            (count,) = self._one(f"SELECT count(*) FROM ({unique})")
        else:
            self._execute(
                "CREATE TABLE unique_events AS SELECT u, i, t, min(pos) AS pos FROM events GROUP BY u, i, t"
            )
            self._execute("DROP TABLE events")
            self._execute("ALTER TABLE unique_events RENAME TO events")
            (count,) = self._one("SELECT count(*) FROM events")
        self.report.num_duplicates = total - count

    def _k_core(self) -> None:
        """Drops users and items with too few events until none is left to drop."""
        minimums = {"u": self.rules.min_user, "i": self.rules.min_item}
        before: tuple[int, ...] = ()
        for column in minimums:
            self._execute(f"CREATE TABLE kept_{column} AS SELECT DISTINCT {column} FROM events")
        self.report.num_users_read, self.report.num_items_seen = self._kept()
        while before != (before := self._kept()):
            self.report.num_rounds += 1
            for column, minimum in minimums.items():
                if minimum:
                    self._execute(
                        f"CREATE OR REPLACE TABLE next AS SELECT {column} FROM events "
                        f"SEMI JOIN kept_u USING (u) SEMI JOIN kept_i USING (i) "
                        f"GROUP BY {column} HAVING count(*) >= {minimum}"
                    )
                    self._execute(f"DROP TABLE kept_{column}")
                    self._execute(f"ALTER TABLE next RENAME TO kept_{column}")
            if self.report.num_rounds == _MAX_ROUNDS:
                raise InputError(f"the k-core did not settle in {_MAX_ROUNDS:,} rounds")
        if not min(self._kept()):
            raise InputError(
                f"no user and item is left with --min-user {self.rules.min_user} and --min-item "
                f"{self.rules.min_item}; there were {self.report.num_users_read:,} users and "
                f"{self.report.num_items_seen:,} items with events"
            )

    def _kept(self) -> tuple[int, ...]:
        return self._one("SELECT (SELECT count(*) FROM kept_u), (SELECT count(*) FROM kept_i)")

    def _write_events(self, out: Path) -> None:
        (total,) = self._one("SELECT count(*) FROM events")
        self._execute(
            "CREATE TABLE kept AS SELECT u, i, t, pos FROM events "
            "SEMI JOIN kept_u USING (u) SEMI JOIN kept_i USING (i)"
        )
        self._execute("DROP TABLE events")
        (count,) = self._one("SELECT count(*) FROM kept")
        self.report.num_events, self.report.num_core_dropped = count, total - count
        order = "pos"
        if self.rules.ties == "shuffle":
            order = f"md5_number_lower(concat({self.rules.seed}, ':', pos))"
        at = "pos" if self._time is None else "t"
        self._execute(
            f"COPY (SELECT user_id, item_id, {at} AS timestamp FROM kept "
            f"JOIN users USING (u) JOIN items USING (i) ORDER BY u, {at}, {order}) "
            f"TO {literal(str(out / 'interactions.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
        )
        if "impressions" in {name for (name,) in self._all("SELECT table_name FROM duckdb_tables()")}:
            self._execute(
                f"COPY (SELECT impressions.* FROM impressions SEMI JOIN items USING (item_id)) TO "
                f"{literal(str(out / 'impressions.parquet'))} (FORMAT parquet, COMPRESSION zstd)"
            )

    def _write_items(self, out: Path) -> None:
        kept = "" if self.rules.min_item == 0 else "SEMI JOIN kept_i USING (i)"
        texts = ", ".join(identifier(f"text_{name}") for name in self._texts)
        rows = self._connection.execute(
            f"SELECT items.item_id, {texts} FROM items JOIN raw_items ON raw_items.rowid = items.first "
            f"{kept} ORDER BY items.i"
        )
        write_items(rows, self._texts, out / "items.parquet", self.report)

    def _measure(self) -> None:
        """Counts what describes the kept events."""
        self.report.num_users, _ = self._kept()
        (self.report.num_repeats,) = self._one(
            "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT u, i FROM kept)) FROM kept"
        )
        if self._time is not None:
            (self.report.num_ties,) = self._one(
                "SELECT coalesce(sum(n), 0)::BIGINT FROM "
                "(SELECT count(*) AS n FROM kept GROUP BY u, t HAVING count(*) > 1)"
            )
            first, last = self._one("SELECT min(t)::VARCHAR, max(t)::VARCHAR FROM kept")
            self.report.first_time, self.report.last_time = first, last
        for column, name in (("u", "events per user"), ("i", "events per item")):
            self.report.lengths[name] = self._one(
                f"SELECT min(n), quantile_disc(n, 0.5), quantile_disc(n, 0.95), max(n), avg(n) FROM "
                f"(SELECT count(*) AS n FROM kept GROUP BY {column})"
            )

    def _note_rejects(self) -> None:
        """Counts the rows that DuckDB's csv reader refused, and forgets them."""
        rows = self._all(
            "SELECT error_type::VARCHAR, count(DISTINCT (file_path, line)), "
            "min_by(file_path, line), min(line) FROM reject_errors JOIN reject_scans "
            "USING (scan_id, file_id) GROUP BY 1 ORDER BY 1"
        ) if self._has_rejects() else []  # fmt: skip
        for kind, count, path, line in rows:
            self.report.add_bad(f"rows of a broken form ({kind.lower()})", count, f"{path} line {line}")
        if rows:
            self._execute("DELETE FROM reject_errors")
            self._execute("DELETE FROM reject_scans")

    def _has_rejects(self) -> bool:
        names = {name for (name,) in self._all("SELECT table_name FROM duckdb_tables()")}
        return {"reject_errors", "reject_scans"} <= names

    def _note_literals(self, bad: dict[str, int]) -> None:
        for place, count in bad.items():
            self.report.add_bad("lines that are no Python literal", count, place)

    def _bad_sentence(self) -> str:
        return ": " + "; ".join(bad.sentence() for bad in self.report.bad) if self.report.bad else ""

    def _where(self) -> str:
        return str(self._found.events.storage.files[0])

    def _execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def _one(self, sql: str) -> tuple[Any, ...]:
        row = self._connection.execute(sql).fetchone()
        assert row is not None
        return tuple(row)

    def _all(self, sql: str) -> list[Any]:
        return list(self._connection.execute(sql).fetchall())


def _connect(folder: Path, memory_gib: float) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(folder / "tables.duckdb"))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    settings = {
        "memory_limit": f"{int(memory_gib * 1024)}MiB",
        "temp_directory": str(folder / "spill"),
        "TimeZone": "UTC",
        "threads": threads if threads.isdigit() and int(threads) > 0 else str(os.cpu_count() or 1),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {literal(value)}")
    return connection


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _quoted(name: str) -> str:
    return name if name.isidentifier() else identifier(name)
