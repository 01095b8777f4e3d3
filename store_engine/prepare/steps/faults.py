"""Bad rows: every kind of fault is counted, with its first row, before any of it ends the work."""

from pathlib import Path
from typing import NamedTuple

from store_engine.errors import InputError, shown
from store_engine.prepare.database import Database
from store_engine.prepare.numbers import decimal_comma
from store_engine.prepare.readers.times import TimeForm, choose_time_form, foreign_units
from store_engine.prepare.report import Report
from store_engine.prepare.rules import Rules
from store_engine.prepare.steps.positive import Positive, parse_positive, tested

CONTROLS = "'[\\x00-\\x1f\\x7f]'"  # SQL of what no id may hold


class GoodRows(NamedTuple):
    """The events of raw that have no fault.

    Attributes:
        relation: SQL of raw with `pos`, the position, `t`, the time or NULL, and `is_positive`
            where the rules have an expression.
        test: SQL that is true of a good row of it.
        has_time: Whether the events have times.
    """

    relation: str
    test: str
    has_time: bool


def find_faults(database: Database, rules: Rules, report: Report) -> GoodRows:
    """Counts bad events by kind.

    Args:
        database: Holds raw: user_id, item_id, time, and what the expression of `rules` tests.
        rules: What is kept.
        report: Takes the counts.

    Raises:
        InputError: The times have no known form.
    """
    form = None
    report.time_form = "none: the order of the files"
    if report.found.events.roles.time:
        try:
            form = choose_time_form(database.connection, "raw", "time", rules.time_format)
        except InputError as error:
            raise InputError(f"{report.where}: {error}") from error
        report.time_form = form.name
        report.warnings += [form.note] if form.note else []
    at = "NULL::BIGINT" if form is None else form.sql.replace("{}", "time")
    positive = _positive(database, rules, report) if rules.positive else None
    more = "" if positive is None else f", {positive.sql} AS is_positive"
    relation = f"(SELECT *, rowid AS pos, {at} AS t{more} FROM raw)"
    kinds = _kinds(database, form, positive)
    cases = " ".join(f"WHEN {test} THEN {n}" for n, test in enumerate(kinds.values()))
    fault = f"CASE {cases} END"  # the first that fits; a NULL is no fit
    counts = database.all(
        f"SELECT fault, count(*), min(pos) FROM (SELECT {fault} AS fault, pos FROM {relation}) "
        f"WHERE fault IS NOT NULL GROUP BY fault ORDER BY fault"
    )
    for number, count, first in counts:
        report.add_bad(list(kinds)[number], count, f"row {first + 1:,}")
    test = f"({fault}) IS NULL" if counts else "true"
    return GoodRows(relation, test, form is not None)


def find_item_faults(database: Database, report: Report) -> None:
    """Counts bad rows of raw_items.

    Args:
        database: Holds raw_items.
        report: Takes the counts.
    """
    total, empty, wild = database.one(
        f"SELECT count(*), count(*) FILTER (coalesce(trim(item_id), '') = ''), "
        f"count(*) FILTER (regexp_matches(item_id, {CONTROLS})) FROM raw_items"
    )
    (unique,) = database.one(
        "SELECT count(DISTINCT item_id) FROM raw_items WHERE trim(item_id) <> ''"
    )
    report.num_items_read = total
    report.add_bad_items("items without an id", empty)
    report.add_bad_items("item ids with a control character", wild)
    report.add_bad_items(
        "items whose id an earlier row has", total - empty - unique, _twice(database)
    )


def _twice(database: Database) -> str:
    """An item id that several rows have, quoted."""
    found = database.all(
        "SELECT item_id FROM raw_items WHERE trim(item_id) <> '' GROUP BY item_id "
        "HAVING count(*) > 1 ORDER BY item_id LIMIT 1"
    )
    return repr(found[0][0]) if found else ""


def note_rejects(database: Database, report: Report) -> None:
    """Counts the rows that DuckDB's csv reader refused, and forgets them."""
    if not database.has_table("reject_errors"):
        return
    rows = database.all(
        "SELECT error_type::VARCHAR, count(DISTINCT (file_path, line)), "
        "min_by(file_path, line), min(line) FROM reject_errors JOIN reject_scans "
        "USING (scan_id, file_id) GROUP BY 1 ORDER BY 1"
    )
    for kind, count, path, line in rows:
        place = _original(path, report)
        report.add_bad(f"rows of a broken form ({kind.lower()})", count, f"{place} line {line}")
    forget_rejects(database)


def _original(path: str, report: Report) -> str:
    """The file that a path stands for, which may be that of a copy in another form."""
    tables = [report.found.events, report.found.items]
    files = [file for table in tables if table is not None for file in table.storage.files]
    named = [str(file) for file in files if file.name == Path(path).name]
    return path if path in named or not named else named[0]


def forget_rejects(database: Database) -> None:
    """Forgets the refused rows of files that are scanned a second time."""
    if database.has_table("reject_errors"):
        database.execute("DELETE FROM reject_errors")
        database.execute("DELETE FROM reject_scans")


def refuse(database: Database, rules: Rules, report: Report) -> None:
    """Ends the work where the rules do not drop what is bad or unknown: all of it in one line.

    Raises:
        InputError: There is something bad or unknown.
    """
    faults = []
    if report.bad and rules.on_error == "stop":
        kinds = "; ".join(bad.sentence() for bad in report.bad)
        faults.append(f"bad rows: {kinds}; --on-error drop leaves them out")
    if report.num_unknown and rules.unknown_items == "error":
        (known,) = database.one("SELECT count(*) FROM items")
        faults.append(
            f"{report.num_unknown:,} events name items that the {known:,} of the catalogue lack, "
            f"most often {report.unknown_examples}; --unknown-items drop leaves them out"
        )
    if faults:
        notes = "".join(f"; warning: {line}" for line in report.warnings)
        raise InputError(f"{report.where}: {'; '.join(faults)}{notes}")


def _positive(database: Database, rules: Rules, report: Report) -> Positive:
    """The expression, by the decimal marks that its columns have."""
    numbers = parse_positive(rules.positive).numbers
    found = {name: decimal_comma(database, tested(name)) for name in numbers}
    commas = {name: value for name, value in found.items() if value}
    report.notes += [
        f"{name}: the comma is read as the decimal mark, as in {shown(value)}"
        for name, value in commas.items()
    ]
    return parse_positive(rules.positive, commas)


def _kinds(database: Database, form: TimeForm | None, positive: Positive | None) -> dict[str, str]:
    """Kinds of bad rows -> SQL that is true of such a row."""
    user, item = "coalesce(trim(user_id), '') = ''", "coalesce(trim(item_id), '') = ''"
    kinds = {
        "rows that are no event": f"{user} AND {item}",
        "no user id (guests)": user,
        "no item id": item,
        "an id with a control character": f"regexp_matches(concat(user_id, item_id), {CONTROLS})",
    }
    if form is not None:
        kinds["no time"] = "coalesce(trim(time), '') = ''"
        kinds[f"a time of another form than {form.name}"] = "t IS NULL"
        if form.name == "whole numbers":
            kinds |= foreign_units(database.connection, "raw", "time")
    if positive is None:
        return kinds
    for name, number in positive.numbers.items():
        wrong = f"trim({tested(name)}) <> '' AND {number} IS NULL"
        if first := database.all(
            f"SELECT {tested(name)} FROM raw WHERE {wrong} ORDER BY rowid LIMIT 1"
        ):
            kind = f"{name} is no number, such as {shown(first[0][0])}"
            kinds[kind] = f"is_positive IS NULL AND {wrong}"
    kinds["a value of --positive that is missing"] = "is_positive IS NULL"
    return kinds
