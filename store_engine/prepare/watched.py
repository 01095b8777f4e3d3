"""Columns that may say of an event that it is none: a return among orders, a cancelled sale."""

import math

from store_engine.errors import shown
from store_engine.prepare.database import Database
from store_engine.prepare.numbers import decimal_comma, number_sql
from store_engine.prepare.readers.discover import Table
from store_engine.prepare.readers.storage import identifier
from store_engine.prepare.report import Report

# a column's name without marks and capitals -> which values are no event; values: any may be none;
# scale: low ones may be
_WATCHED = {
    "quantity": "<= 0", "qty": "<= 0", "amount": "<= 0", "units": "<= 0", "price": "< 0",
    "total": "< 0", "returned": "true", "isreturn": "true", "returns": "> 0", "refunded": "true",
    "isrefund": "true", "cancelled": "true", "canceled": "true", "deleted": "true",
    "status": "values", "orderstatus": "values", "event": "values", "eventtype": "values",
    "action": "values", "behavior": "values", "behaviour": "values", "behaviortype": "values",
    "isread": "false", "rating": "scale", "ratings": "scale", "stars": "scale",
    "overall": "scale", "bewertung": "scale", "menge": "<= 0", "anzahl": "<= 0",
}  # fmt: skip
_OPPOSITE = {"<= 0": "> 0", "< 0": ">= 0", "> 0": "<= 0"}
_WORDS = {"true": "('true', '1', 'yes', 't', 'y')", "false": "('false', '0', 'no', 'f', 'n')"}


def watched_columns(table: Table, tested: tuple[str, ...]) -> list[str]:
    """Finds such columns.

    Args:
        table: The events.
        tested: Columns that --positive reads, which need no warning.
    """
    if table.layout is not None or table.sequence:
        return []
    used = {table.roles.user, table.roles.item, table.roles.time, *tested}
    return [n for n in table.storage.columns if _plain(n) in _WATCHED and n not in used]


def warn(database: Database, watched: list[str], report: Report) -> None:
    """Warns of the values in the columns `watch_NAME` of the table raw.

    Args:
        database: Holds raw.
        watched: The names.
        report: Takes the warnings.
    """
    for name in watched:
        rule = _WATCHED[_plain(name)]
        column = identifier(f"watch_{name}")
        if rule == "values":
            _warn_of_values(database, name, column, report)
            continue
        if rule == "scale":
            _warn_of_scale(database, name, column, report)
            continue
        keep = f"!= {rule}"
        if rule in _WORDS:
            test = f"lower(trim({column})) IN {_WORDS[rule]}"
            if first := database.all(f"SELECT {column} FROM raw WHERE {test} LIMIT 1"):
                keep = f"!= '{first[0][0]}'"
        else:
            test, keep = f"{_number(database, column)} {rule}", _OPPOSITE[rule]
        (count,) = database.one(f"SELECT count(*) FROM raw WHERE {test}")
        if count:
            share = f"{count:,} of {report.num_read:,} events ({count / report.num_read:.1%})"
            hint = f'--positive "{_quoted(name)} {keep}" leaves them out'
            report.warnings.append(f"{name} is {rule} in {share}: {hint}")


def _warn_of_scale(database: Database, name: str, column: str, report: Report) -> None:
    number = _number(database, column)
    least, most = database.one(f"SELECT min({number}), max({number}) FROM raw")
    if least is not None and least < most:
        liked = math.ceil(least + 0.7 * (most - least))
        (count,) = database.one(f"SELECT count(*) FROM raw WHERE {number} < {liked}")
        report.warnings.append(
            f"{name} runs from {least:g} to {most:g}, and is below {liked} in {count:,} of "
            f"{report.num_read:,} events ({count / report.num_read:.1%}): "
            f'--positive "{_quoted(name)} >= {liked}" leaves them out'
        )


def _warn_of_values(database: Database, name: str, column: str, report: Report) -> None:
    values = database.all(
        f"SELECT {column}, count(*) FROM raw WHERE {column} <> '' "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
    )
    if len(values) > 1:
        listed = ", ".join(f"{shown(value)} {count:,}" for value, count in values)
        hint = f"--positive \"{_quoted(name)} = '{values[0][0]}'\" keeps the first alone"
        report.warnings.append(f"{name} has values {listed}: {hint}")


def _number(database: Database, column: str) -> str:
    return number_sql(column, bool(decimal_comma(database, column)))


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _quoted(name: str) -> str:
    return name if name.isidentifier() else identifier(name)
