"""Numbers in raw's columns of text: with a decimal point or, as in much of Europe, a comma."""

from store_engine.prepare.database import Database

_WITH_COMMA = "'[+-]?([0-9]+|[0-9]{1,3}([.][0-9]{3})+),[0-9]+'"


def decimal_comma(database: Database, column: str) -> str:
    """Tells whether a comma is a column's decimal mark: whether all values but whole numbers fit.

    A point is then one between thousands: `1.299,00`.

    Args:
        database: Holds raw.
        column: SQL of the column.

    Returns:
        The first value with such a comma; "" where the comma is none.
    """
    is_other = f"try_cast({column} AS DOUBLE) IS NULL OR contains({column}, '.')"
    fits, first = database.one(
        f"SELECT bool_and(regexp_full_match(trim({column}), {_WITH_COMMA})), "
        f"arg_min({column}, rowid) FROM raw WHERE trim({column}) <> '' AND ({is_other})"
    )
    return str(first) if fits else ""


def number_sql(column: str, has_comma: bool) -> str:
    """Writes the SQL of a column's numbers; NULL is no number.

    Args:
        column: SQL of the column.
        has_comma: Whether the comma is its decimal mark.
    """
    text = f"replace(replace({column}, '.', ''), ',', '.')" if has_comma else column
    return f"try_cast({text} AS DOUBLE)"
