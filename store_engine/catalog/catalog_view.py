"""The catalogue at one moment, as one call of the engine sees it."""

import functools
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie, Snapshot
from store_engine.catalog.item_sets import Definitions, ItemSets
from store_engine.catalog.item_table import ItemTable
from store_engine.catalog.row_map import RowMap, SameRows, SnapshotRows, SubsetRows
from store_engine.catalog.trie_arrays import SearchTrie, SnapshotTrie, TrieArrays


class CatalogView(ABC):
    """The items, their tokens and the item sets at one moment; immutable.

    Args:
        trie: What is searched.
        row_map: From catalogue rows to the trie's and back.
        table: All items by catalogue row, also those that were removed.
        sets: The item sets over the trie.
    """

    def __init__(self, trie: SearchTrie, row_map: RowMap, table: ItemTable, sets: ItemSets) -> None:
        self.trie, self.row_map, self.table, self.sets = trie, row_map, table, sets

    @property
    @abstractmethod
    def compacted(self) -> "StaticView":
        """The same items in a trie whose arrays can be read, for every search but the core's."""

    @abstractmethod
    def with_definition(self, name: str, rows: NDArray[np.int64]) -> "CatalogView":
        """Returns the same items with one item set defined anew."""

    @property
    def tokens(self) -> Tensor:
        """(num_rows, tokens_per_item) int64 unified ids: what a history reads of each row."""
        return self.table.tokens

    def trie_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the trie's rows of those items that it has; the others are left out."""
        return self.row_map.to_trie(rows)

    def rows(self, trie_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the catalogue rows of the trie's rows, any shape; -1 stands for none."""
        return self.row_map.to_catalog(trie_rows)


class StaticView(CatalogView):
    """A view on a trie that does not change."""

    trie: TrieArrays

    @classmethod
    def from_trie(cls, trie: ItemTrie, table: ItemTable) -> "StaticView":
        """Makes the view of a catalogue that was never changed and has no item sets."""
        arrays, row_map = TrieArrays(trie, table.tokens.device), SameRows()
        return cls(arrays, row_map, table, ItemSets(trie, row_map, {}))

    @property
    def compacted(self) -> "StaticView":
        """The view itself."""
        return self

    def with_definition(self, name: str, rows: NDArray[np.int64]) -> "StaticView":
        """Returns the same items with one item set defined anew."""
        sets = self.sets.with_definition(name, rows)
        return StaticView(self.trie, self.row_map, self.table, sets)


class LiveView(CatalogView):
    """A view on a snapshot of a live trie."""

    trie: SnapshotTrie

    @classmethod
    def from_snapshot(
        cls, snapshot: Snapshot, table: ItemTable, definitions: Definitions
    ) -> "LiveView":
        """Makes the view of a catalogue after a change."""
        trie, row_map = SnapshotTrie(snapshot, table.tokens.device), SnapshotRows(snapshot)
        return cls(trie, row_map, table, ItemSets(snapshot, row_map, definitions))

    @functools.cached_property
    def compacted(self) -> StaticView:
        """The same items in a trie of their own; built once for all views on the snapshot."""
        trie, rows = self.trie.compacted
        row_map = SubsetRows(rows)
        sets = ItemSets(trie.item_trie, row_map, self.sets.definitions)
        return StaticView(trie, row_map, self.table, sets)

    def with_definition(self, name: str, rows: NDArray[np.int64]) -> "LiveView":
        """Returns the same items with one item set defined anew."""
        sets = self.sets.with_definition(name, rows)
        return LiveView(self.trie, self.row_map, self.table, sets)
