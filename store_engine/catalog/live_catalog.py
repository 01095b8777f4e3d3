"""The items of an engine, which may change while others search them.

A row, once given to an item, is its for good: histories may go on naming what was removed. A call
works on one `CatalogView` and sees nothing of a change that comes later; a change makes a new view
and puts it in the old one's place. The first change turns the trie into the core's live trie.
"""

import functools
import threading
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie, LiveTrie, Snapshot
from store_engine.catalog.item_sets import ItemSets
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError

Definitions = dict[str, NDArray[np.int64]]  # of item sets: name -> catalogue rows


class CatalogView:
    """The catalogue at one moment; immutable. A catalogue row is called `row`.

    Args:
        trie: The items there are.
        rows: (num_items,) int64 ascending, the row of each of the trie's; None where these are the
            same, or where the trie is a snapshot and knows them itself.
        tokens: (num_rows, num_levels) int64 joint ids on the device, by row, also of items that
            were removed.
        definitions: Of the item sets.
    """

    def __init__(
        self,
        trie: ItemTrie | Snapshot,
        rows: NDArray[np.int64] | None,
        tokens: Tensor,
        definitions: Definitions,
    ) -> None:
        self.trie = TrieArrays(trie, tokens.device)
        self.tokens = tokens
        self._rows, self._definitions = rows, definitions
        self.sets = ItemSets(trie, definitions, self.trie_rows)

    def trie_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The trie's rows of those items that are there; the others are left out."""
        trie = self.trie.item_trie
        if isinstance(trie, Snapshot):
            found = trie.rows_of(rows)
        elif self._rows is None:
            return rows
        else:
            found = np.searchsorted(self._rows, rows)
            found[found == len(self._rows)] = 0
            found[self._rows[found] != rows] = -1
        return found[found >= 0]

    def rows(self, trie_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the trie's rows, any shape; -1 stands for none and stays."""
        trie, is_one = self.trie.item_trie, trie_rows >= 0
        rows = trie_rows.copy()
        if isinstance(trie, Snapshot):
            rows[is_one] = trie.item_ids(trie_rows[is_one])
        elif self._rows is not None:
            rows[is_one] = self._rows[trie_rows[is_one]]
        return rows

    @functools.cached_property
    def rebuilt(self) -> "CatalogView":
        """The same items in a trie of their own, for whoever reads the arrays of a trie."""
        trie = self.trie.item_trie
        if isinstance(trie, ItemTrie):
            return self
        sids, rows = trie.items()
        order = np.argsort(rows)
        fresh = ItemTrie(np.ascontiguousarray(sids[order]), list(trie.codebook_sizes))
        return CatalogView(fresh, rows[order], self.tokens, self._definitions)


class LiveCatalog:
    """All items that there are or were. Changes wait for each other, readers for nothing.

    Args:
        catalog: The first items, in row order.
        sids: (num_items, num_levels) int32.
        trie: Of these.
        token_offsets: (num_levels,) int64 on the device where tokens are wanted: the joint id of
            each level's first code.
    """

    def __init__(
        self, catalog: Catalog, sids: NDArray[np.int32], trie: ItemTrie, token_offsets: Tensor
    ) -> None:
        self._catalog: Catalog | None = catalog
        self._sizes, self._offsets = trie.codebook_sizes, token_offsets
        # by row, and only ever appended to, so that readers need no lock
        self._ids = list(catalog.item_ids)
        self._fields = {name: list(texts) for name, texts in catalog.fields.items()}
        self._row_of = {item_id: row for row, item_id in enumerate(self._ids)}
        self._tokens = self._to_tokens(sids)
        self._definitions: Definitions = {}
        self._live: LiveTrie | None = None
        self._lock = threading.Lock()
        self.view = CatalogView(trie, None, self._tokens, self._definitions)

    @property
    def catalog(self) -> Catalog:
        """All items by row, also those that were removed. O(number of items) after a change."""
        with self._lock:
            if self._catalog is None:
                fields = {name: tuple(texts) for name, texts in self._fields.items()}
                self._catalog = Catalog(tuple(self._ids), fields)
            return self._catalog

    @property
    def sids(self) -> NDArray[np.int32]:
        """(num_rows, num_levels), by row, also of items that were removed."""
        codes = self.view.tokens - self._offsets
        return codes.cpu().numpy().astype(np.int32)

    def item_id(self, row: int) -> str:
        """The item of a row."""
        return self._ids[row]

    def row_of(self, item_id: str) -> int:
        """The row of an item that is or was in the catalogue.

        Raises:
            InputError: There never was such an item.
        """
        row = self._row_of.get(item_id)
        if row is None:
            raise InputError(f"unknown item id {item_id!r}; the catalogue has {len(self._ids):,}")
        return row

    def define(self, name: str, item_ids: Iterable[str]) -> None:
        """Names a set of items, or replaces it.

        Raises:
            InputError: The name is no identifier, or there never was such an item.
        """
        if not name.isidentifier():
            raise InputError(f"the name of an item set must be an identifier, got {name!r}")
        rows = np.array([self.row_of(item_id) for item_id in item_ids], dtype=np.int64)
        self._definitions[name] = rows

    def add(self, items: Catalog, sids: NDArray[np.int32]) -> None:
        """Adds items.

        Args:
            items: With the fields of the catalogue. One that was removed may come back.
            sids: (num_items, num_levels) int32.

        Raises:
            InputError: An item is in the catalogue already; a field, a shape or a code is wrong.
                Nothing is added then.
        """
        with self._lock:
            self._check(items, sids)
            next_row = len(self._ids)
            rows = np.array([self._row_of.get(i, -1) for i in items.item_ids], dtype=np.int64)
            is_new = rows < 0
            rows[is_new] = next_row + np.arange(is_new.sum())
            self._live_trie().add(np.ascontiguousarray(sids, dtype=np.int32), rows)
            self._write(items, sids, rows)
            self.view = self._new_view()
            # last: who finds an item's row here finds it in the view too
            self._row_of.update(zip(items.item_ids, rows.tolist(), strict=True))

    def remove(self, item_ids: Iterable[str]) -> None:
        """Removes items; histories may still name them.

        Raises:
            InputError: An item is not in the catalogue, is named twice, or none would be left.
                Nothing is removed then.
        """
        rows = np.array([self.row_of(item_id) for item_id in item_ids], dtype=np.int64)
        with self._lock:
            live = self._live_trie()
            for row, found in zip(rows.tolist(), live.snapshot().rows_of(rows), strict=True):
                if found < 0:
                    raise InputError(f"item {self._ids[row]!r} was removed already")
            if len(np.unique(rows)) < len(rows):
                raise InputError("an item to remove is named twice")
            if len(rows) == live.snapshot().num_items:
                raise InputError("a catalogue needs at least one item")
            live.remove(rows)
            self.view = self._new_view()

    def _live_trie(self) -> LiveTrie:
        if self._live is None:
            rows = np.arange(len(self._ids), dtype=np.int64)
            self._live = LiveTrie(self.sids, rows, list(self._sizes))
        return self._live

    def _check(self, items: Catalog, sids: NDArray[np.int32]) -> None:
        """Refuses what cannot be added."""
        want = (items.num_items, len(self._sizes))
        if sids.shape != want:
            raise InputError(f"sids must be (num_items, num_levels) = {want}, got {sids.shape}")
        if items.fields.keys() != self._fields.keys():
            raise InputError(
                f"the new items' fields must be {', '.join(self._fields)}, "
                f"got {', '.join(items.fields)}"
            )
        is_wrong = (sids < 0) | (sids >= np.array(self._sizes))
        if is_wrong.any():
            item, level = np.argwhere(is_wrong)[0]
            raise InputError(
                f"item {items.item_ids[item]!r}: code {sids[item, level]} of level {level} is "
                f"outside [0, {self._sizes[level]})"
            )
        known = [row for i in items.item_ids if (row := self._row_of.get(i)) is not None]
        found = self._live_trie().snapshot().rows_of(np.array(known, dtype=np.int64))
        for row in np.array(known)[found >= 0].tolist():
            raise InputError(f"item {self._ids[row]!r} is in the catalogue already")

    def _write(self, items: Catalog, sids: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        """Enters tokens and texts at their rows."""
        tokens = self._to_tokens(sids)
        size, need = len(self._ids), int(rows.max(initial=0)) + 1
        if need > len(self._tokens):
            room = self._tokens.new_zeros(need // 4 + 1024, len(self._sizes))
            self._tokens = torch.cat([self._tokens, room])
        elif (rows < size).any():  # who reads an old row now must not see it half written
            self._tokens = self._tokens.clone()
        self._tokens[torch.from_numpy(rows).to(tokens.device)] = tokens
        for i, row in enumerate(rows.tolist()):
            if row == len(self._ids):
                self._ids.append(items.item_ids[i])
                for texts in self._fields.values():
                    texts.append("")
            for name, texts in self._fields.items():
                texts[row] = items.fields[name][i]
        self._catalog = None

    def _to_tokens(self, sids: NDArray[np.int32]) -> Tensor:
        return torch.tensor(sids, device=self._offsets.device) + self._offsets

    def _new_view(self) -> CatalogView:
        snapshot = self._live_trie().snapshot()
        return CatalogView(snapshot, None, self._tokens[: len(self._ids)], self._definitions)
