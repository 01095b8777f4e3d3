"""From catalogue rows to the rows of a trie and back.

A catalogue row, `row`, is an item's for ever. A trie numbers the items it was built from: the same
way as the catalogue, or, once items were removed, its own.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from store_engine._C import Snapshot

Rows = NDArray[np.int64]


class RowMap(Protocol):
    """The two directions; immutable."""

    def to_trie(self, rows: Rows) -> Rows:
        """Returns the trie's rows of those catalogue rows that it has; the others are left out."""

    def to_catalog(self, trie_rows: Rows) -> Rows:
        """Returns the catalogue rows of the trie's, any shape; -1 stands for none and stays."""


class SameRows:
    """The map of a trie that holds the whole catalogue in its order."""

    def to_trie(self, rows: Rows) -> Rows:
        """See `RowMap`."""
        return rows

    def to_catalog(self, trie_rows: Rows) -> Rows:
        """See `RowMap`."""
        return trie_rows


class SubsetRows:
    """The map of a trie that holds a part of the catalogue.

    Args:
        rows: (num_items,) int64 ascending, the catalogue row of each of the trie's rows.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def to_trie(self, rows: Rows) -> Rows:
        """See `RowMap`."""
        found = np.searchsorted(self._rows, rows)
        found[found == len(self._rows)] = 0
        return found[self._rows[found] == rows]

    def to_catalog(self, trie_rows: Rows) -> Rows:
        """See `RowMap`."""
        return np.where(trie_rows >= 0, self._rows[trie_rows.clip(min=0)], -1)


class SnapshotRows:
    """The map of a snapshot, whose item ids are catalogue rows."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def to_trie(self, rows: Rows) -> Rows:
        """See `RowMap`."""
        found = self._snapshot.rows_of(rows)
        return found[found >= 0]

    def to_catalog(self, trie_rows: Rows) -> Rows:
        """See `RowMap`."""
        rows, is_one = trie_rows.copy(), trie_rows >= 0
        rows[is_one] = self._snapshot.item_ids(trie_rows[is_one])
        return rows
