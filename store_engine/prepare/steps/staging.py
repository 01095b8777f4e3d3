"""The files' rows into the tables raw and raw_items, as they stand."""

from dataclasses import replace
from pathlib import Path

from store_engine.errors import InputError, nearest
from store_engine.prepare.database import Database
from store_engine.prepare.readers.discover import Table
from store_engine.prepare.readers.first_rows import with_first_rows
from store_engine.prepare.readers.line_ends import with_even_lines
from store_engine.prepare.readers.sources import (
    event_rows,
    item_fields,
    item_rows,
    mind_impressions,
    without_literals,
)
from store_engine.prepare.readers.storage import identifier
from store_engine.prepare.readers.whole_fields import with_whole_fields
from store_engine.prepare.readers.windows_1252 import with_utf8
from store_engine.prepare.report import Report
from store_engine.prepare.steps.faults import find_item_faults, forget_rejects, note_rejects
from store_engine.prepare.steps.positive import Positive, parse_positive
from store_engine.prepare.watched import warn, watched_columns


def stage_events(database: Database, folder: Path, report: Report) -> None:
    """Reads the events into raw, and what MIND's users were shown into impressions.

    Args:
        database: Takes the tables.
        folder: For files that are rewritten first.
        report: Takes the counts and warnings.

    Raises:
        InputError: No event can be read, or --positive reads a column that is not there.
    """
    table = _readable(report.found.events, folder, report)
    positive = parse_positive(report.rules.positive) if report.rules.positive else None
    watched = watched_columns(table, () if positive is None else positive.columns)
    computed = {f"watch_{name}": identifier(name) for name in watched}
    reads = [*watched]
    if positive is not None:
        _require_columns(table, positive)
        computed |= {f"tested_{name}": identifier(name) for name in positive.columns}
        reads += positive.columns
    if report.found.items is None and table.expand != "nested":
        computed |= {f"text_{name}": identifier(name) for name in table.roles.texts}
        reads += table.roles.texts
    database.execute(f"CREATE TABLE raw AS {event_rows(table, computed, reads)}")
    note_rejects(database, report)
    (report.num_read,) = database.one("SELECT count(*) FROM raw")
    if not report.num_read:
        kinds = "; ".join(kind.sentence() for kind in report.bad) or "there is none"
        raise InputError(f"{report.where}: no event could be read: {kinds}")
    warn(database, watched, report)
    if table.expand == "mind":
        database.execute(f"CREATE TABLE impressions AS {mind_impressions(table)}")
        forget_rejects(database)
        report.notes.append(
            "clicks before the log have no times: they stand a second apart before a user's first "
            "line"
        )


def stage_items(database: Database, folder: Path, report: Report) -> tuple[str, ...]:
    """Reads the items into raw_items, if there are files of them.

    Args:
        database: Takes the table.
        folder: For files that are rewritten first.
        report: Takes the counts.

    Returns:
        Names of the text fields; column `text_NAME` of raw_items, or of raw if there is no file.

    Raises:
        InputError: No column of the items holds text.
    """
    if report.found.items is None:
        return report.found.events.roles.texts
    table = _readable(report.found.items, folder, report)
    fields = item_fields(table)
    if not fields:
        raise InputError(
            f"{table.storage.files[0]}: no column holds text; --text names some; "
            f"columns: {', '.join(table.storage.columns[:50])}"
        )
    database.execute(f"CREATE TABLE raw_items AS {item_rows(table)}")
    note_rejects(database, report)
    find_item_faults(database, report)
    return fields


def _require_columns(table: Table, positive: Positive) -> None:
    missing = [name for name in positive.columns if name not in table.storage.columns]
    if missing or table.expand != "rows" or table.storage.kind == "lines":
        what = f"no column {missing[0]!r}" if missing else "no plain columns"
        if missing and (near := nearest(missing[0], table.storage.columns)):
            what += f" ({near}?)"
        names = ", ".join(table.storage.columns[:50])
        raise InputError(f"--positive: {table.storage.files[0]} has {what}; columns: {names}")


def _readable(table: Table, folder: Path, report: Report) -> Table:
    """The table in a form that DuckDB reads: what else there is was rewritten."""
    if report.max_rows:
        storage = with_first_rows(table.storage, folder / f"{table.role}-part", report.max_rows)
        report.cut += [table.role] if storage is not table.storage else []
        table = replace(table, storage=storage)
    table = replace(table, storage=with_utf8(table.storage, folder / f"{table.role}-utf-8"))
    table, bad = without_literals(table, folder)
    for place, count in bad.items():
        report.add_bad("lines that are no Python literal", count, place)
    storage = with_even_lines(table.storage, folder / f"{table.role}-lines")
    if storage.files != table.storage.files:
        names = ", ".join(path.name for path in table.storage.files[:3])
        report.notes.append(f"{names}: some lines end with CR LF, some with LF; both were read")
    storage, num_parted = with_whole_fields(storage, folder / f"{table.role}-fields")
    if num_parted:
        report.notes.append(
            f"{table.storage.files[0].name}: {num_parted:,} rows have the ; of an HTML entity, "
            f"which ends no field there"
        )
    return replace(table, storage=storage)
