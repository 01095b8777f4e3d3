"""The items of an engine, which may change while others search them.

An item keeps its catalogue row for ever, so histories may still name an item that was removed. A
call works on one `CatalogView` and sees nothing of a change that comes later. A change first checks
everything, then prepares a new view aside, and publishes it by one assignment: cut short anywhere,
also by an interrupt or for lack of memory, it has happened in full or not at all.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from store_engine._C import ItemTrie, LiveTrie
from store_engine.catalog.catalog_view import CatalogView, LiveView, StaticView
from store_engine.catalog.item_ids import check_histories, check_item_ids
from store_engine.catalog.item_slots import ItemSlots
from store_engine.catalog.item_table import ItemTable
from store_engine.catalog.new_items import NewItems, check_new_items
from store_engine.catalog.set_expression import check_set_name
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.model.store_model import StoreModel

Commit = Callable[[], None]


class LiveCatalog:
    """All items that there are or were. Changes wait for each other, readers for nothing.

    Args:
        catalog: The first items, in row order.
        sids: (num_items, num_levels) int32.
        trie: The trie over `sids`.
        token_offsets: (num_code_levels,) int64 on the device where tokens are wanted: the unified
            id of each level's first code.
        model: The recommender, where its items are tokens themselves; else None.

    Attributes:
        view: The catalogue as it is now; replaced, never changed.
        on_change: Called with every new view, by the thread that changes it: it must be quick.
    """

    def __init__(
        self,
        catalog: Catalog,
        sids: NDArray[np.int32],
        trie: ItemTrie,
        token_offsets: Tensor,
        model: StoreModel | None = None,
    ) -> None:
        self._sizes, self._offsets = trie.codebook_sizes, token_offsets
        item_slots, slots = None, np.zeros(0, dtype=np.int64)
        if model is not None and model.items is not None:
            item_slots, slots = ItemSlots.of(model, sids, int(self._sizes[-1]))
        tokens = self._to_tokens(sids, slots, item_slots)
        table = ItemTable.from_catalog(catalog, tokens, sids, item_slots)
        self.view: CatalogView = StaticView.from_trie(trie, table)
        self.on_change: Callable[[CatalogView], None] = lambda _: None
        # None, or in step with the view unless `_is_changing` outlived a change that was cut short
        self._live: LiveTrie | None = None
        self._is_changing = False
        self._lock = threading.Lock()

    @property
    def catalog(self) -> Catalog:
        """All items by row, also those that were removed. O(number of items) after a change."""
        return self.view.table.catalog

    @property
    def sids(self) -> NDArray[np.int32]:
        """(num_rows, num_levels), by row, also of items that were removed."""
        return self.view.table.sids.copy()

    def present(self) -> NDArray[np.int64]:
        """Returns the rows of the items that there are now, ascending. O(number of items)."""
        trie = self.view.trie.item_trie
        if isinstance(trie, ItemTrie):
            return np.arange(trie.num_items, dtype=np.int64)
        return np.sort(trie.items()[1])

    def are_there(self, item_ids: Iterable[str]) -> list[bool]:
        """Tells of each item whether it is in the catalogue now."""
        view = self.view
        rows = np.array([view.table.find(one) for one in item_ids], dtype=np.int64)
        found = rows[rows >= 0]
        there = view.rows(view.trie_rows(found))
        return np.isin(rows, there).tolist()

    def item_id(self, row: int) -> str:
        """Returns the item of a row."""
        return self.view.table.item_id(row)

    def row_of(self, item_id: str) -> int:
        """Returns the row of an item that is or was in the catalogue.

        Raises:
            InputError: There never was such an item.
        """
        return self.view.table.row_of(item_id)

    def rows_of_lists(
        self, lists: Iterable[Iterable[str]], what: str, *, is_ordered: bool = True
    ) -> list[list[int]]:
        """Returns the rows of lists of items, which are or were in the catalogue.

        Args:
            lists: Item ids of each.
            what: What messages call them.
            is_ordered: Their order means something; a set is refused.

        Raises:
            TypeError: They are no lists of item ids.
            InputError: There never was such an item.
        """
        rows = []
        checked = check_histories(lists, what, known=self.view.table, is_ordered=is_ordered)
        for i, item_ids in enumerate(checked):
            try:
                rows.append([self.row_of(item_id) for item_id in item_ids])
            except InputError as error:
                raise InputError(f"{what}[{i}]: {error}") from error
        return rows

    def known_rows_of_lists(
        self,
        lists: Iterable[Iterable[str]],
        what: str,
        unknown: Literal["error", "skip"],
        *,
        is_ordered: bool = True,
    ) -> tuple[list[list[int]], int]:
        """Returns the rows of histories, and how many items were left out.

        Args:
            lists: Item ids of each.
            what: What messages call them.
            unknown: "skip" leaves out what there never was.
            is_ordered: As for `rows_of_lists`.

        Raises:
            TypeError: They are no lists of item ids.
            InputError: There never was such an item, and `unknown` is "error".
        """
        if unknown == "error":
            return self.rows_of_lists(lists, what, is_ordered=is_ordered), 0
        table = self.view.table
        checked = check_histories(lists, what, known=table, is_ordered=is_ordered)
        rows = [[row for one in ids if (row := table.find(one)) >= 0] for ids in checked]
        return rows, sum(map(len, checked)) - sum(map(len, rows))

    def define(self, name: str, item_ids: Iterable[str]) -> None:
        """Names a set of items, or replaces it. Calls under way go on with the old one.

        Raises:
            TypeError: The name is not text, or `item_ids` is no list of item ids.
            InputError: The name is unfit (see `check_set_name`), or there never was such an item.
        """
        check_set_name(name)
        ids = check_item_ids(item_ids, "item_ids", known=self.view.table)
        with self._lock:
            self.view = self.view.with_definition(name, self._rows_of(ids))
            self.on_change(self.view)

    def add(
        self,
        items: Catalog,
        sids: ArrayLike,
        features: ArrayLike | None = None,
        commit: Commit = lambda: None,
    ) -> None:
        """Adds items.

        Args:
            items: With the fields of the catalogue. One that was removed may come back.
            sids: (num_items, num_levels) integers.
            features: (num_items, num_features) numbers, where the last code is the item itself;
                else None.
            commit: Called when nothing can go wrong any more, before anybody sees the change; if
                it raises, nothing has happened.

        Raises:
            TypeError: `items` is no catalogue.
            InputError: An item is in the catalogue already; a field, a text, a shape or a code is
                wrong; features are missing or wrong, or a SID is taken that an item must have
                alone. Nothing is added then.
        """
        with self._lock:
            table = self.view.table
            new = check_new_items(items, sids, table.fields.keys(), self._sizes)
            rows = table.rows_for(new.item_ids)
            present = self.view.trie_rows(rows[rows < table.num_rows])
            if len(present):
                item_id = table.item_id(int(self.view.rows(present[:1])[0]))
                raise InputError(f"item {item_id!r} is in the catalogue already")
            table = self._with_items(table, new, rows, features)
            with self._change() as live:
                live.add(new.sids, rows)
                self._publish(live, table, commit)

    def update(
        self,
        items: Catalog,
        sids: ArrayLike,
        features: ArrayLike | None = None,
        commit: Commit = lambda: None,
    ) -> None:
        """Replaces the texts and the SIDs of items, whose rows stay theirs.

        Args:
            items: With the fields of the catalogue, all of them in it.
            sids: As for `add`, like the others.
            features: As for `add`.
            commit: As for `add`.

        Raises:
            TypeError: `items` is no catalogue.
            InputError: As for `add`, or an item is not in the catalogue. Nothing changes then.
        """
        with self._lock:
            table = self.view.table
            new = check_new_items(items, sids, table.fields.keys(), self._sizes)
            rows = self._rows_there(new.item_ids)
            table = self._with_items(table.without_places(rows), new, rows, features)
            with self._change() as live:
                live.remove(rows)
                live.add(new.sids, rows)
                self._publish(live, table, commit)

    def remove(self, item_ids: Iterable[str], commit: Commit = lambda: None) -> None:
        """Removes items; histories may still name them.

        Args:
            item_ids: Each once.
            commit: As for `add`.

        Raises:
            TypeError: `item_ids` is no list of item ids.
            InputError: An item is not in the catalogue, is named twice, or none would be left.
                Nothing is removed then.
        """
        ids = check_item_ids(item_ids, "item_ids", known=self.view.table)
        with self._lock:
            rows = self._rows_there(ids)
            if len(np.unique(rows)) < len(rows):
                raise InputError("an item to remove is named twice")
            if len(rows) == self.view.trie.num_items:
                raise InputError("a catalogue needs at least one item")
            if len(rows):
                table = self.view.table.without_places(rows)
                with self._change() as live:
                    live.remove(rows)
                    self._publish(live, table, commit)

    def _rows_of(self, item_ids: list[str]) -> NDArray[np.int64]:
        return np.array([self.row_of(item_id) for item_id in item_ids], dtype=np.int64)

    def _rows_there(self, item_ids: list[str]) -> NDArray[np.int64]:
        """The rows of items that are in the catalogue now."""
        rows = self._rows_of(item_ids)
        is_there = np.isin(rows, self.view.rows(self.view.trie_rows(rows)))
        if not is_there.all():
            item_id = self.item_id(int(rows[~is_there][0]))
            raise InputError(f"item {item_id!r} was removed already")
        return rows

    def _with_items(
        self,
        table: ItemTable,
        new: NewItems,
        rows: NDArray[np.int64],
        features: ArrayLike | None,
    ) -> ItemTable:
        """The table with these items in these rows."""
        slots, item_slots = np.zeros(0, dtype=np.int64), table.item_slots
        if item_slots is not None:
            slots = item_slots.num_slots + np.arange(len(rows))
            item_slots = item_slots.with_items(new.sids, features)
        elif features is not None:
            raise InputError("features are of use only where the last code is the item itself")
        tokens = self._to_tokens(new.sids, slots, item_slots)
        with torch.inference_mode(False):  # the storage outlives the caller's mode
            return table.appended(new, rows, tokens).with_slots(item_slots)

    @contextmanager
    def _change(self) -> Iterator[LiveTrie]:
        """Lends the live trie for one change.

        The trie changes before the view does. Where a change ended between the two, the trie is
        ahead of the view, and the next change makes a new one from the view.
        """
        if self._live is None or self._is_changing:
            self._live = self._live_trie()
        self._is_changing = True
        yield self._live
        self._is_changing = False

    def _live_trie(self) -> LiveTrie:
        trie = self.view.trie.item_trie
        if isinstance(trie, ItemTrie):
            sids, rows = self.sids, np.arange(trie.num_items, dtype=np.int64)
        else:
            sids, rows = trie.items()
        return LiveTrie(sids, rows, list(self._sizes))

    def _publish(self, live: LiveTrie, table: ItemTable, commit: Commit) -> None:
        view = LiveView.from_snapshot(live.snapshot(), table, self.view.sets.definitions)
        commit()
        self.view = view
        self.on_change(view)

    def _to_tokens(
        self, sids: NDArray[np.int32], slots: NDArray[np.int64], item_slots: ItemSlots | None
    ) -> Tensor:
        """(num_items, tokens_per_item) int64 unified ids: what a history reads of items."""
        with torch.inference_mode(False):
            num_codes = len(self._offsets)
            codes = torch.tensor(sids[:, :num_codes], device=self._offsets.device) + self._offsets
            if item_slots is None or item_slots.read is None:
                return codes
            model, item = item_slots.model, torch.from_numpy(slots)[:, None].to(codes.device)
            item = item + model.vocabulary.item_offset
            assert model.items is not None
            return item if model.items.are_read else torch.cat([codes, item], dim=1)
