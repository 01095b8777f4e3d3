"""Rows that cannot be used, gathered so that one error can tell of all of them."""

from typing import NamedTuple


class BadRows(NamedTuple):
    """Rows with the same fault.

    Args:
        row: The first of them.
        what: What is wrong with it.
        num_rows: How many rows have the fault.
        other_row: Another row that belongs to the fault: its place completes `what`.
    """

    row: int
    what: str
    num_rows: int = 1
    other_row: int | None = None


class Faults:
    """Counts faults by kind while a column is read, and keeps the first row of each."""

    def __init__(self) -> None:
        self._found: dict[str, BadRows] = {}

    def add(self, kind: str, row: int, what: str, num_rows: int = 1) -> None:
        """Adds rows with a fault; `what` is told of the kind's first row."""
        first = self._found.get(kind)
        if first is None:
            self._found[kind] = BadRows(row, what, num_rows)
        else:
            row, what = min((first.row, first.what), (row, what))
            self._found[kind] = BadRows(row, what, first.num_rows + num_rows)

    def rows(self) -> list[BadRows]:
        """Returns what was found."""
        return list(self._found.values())
