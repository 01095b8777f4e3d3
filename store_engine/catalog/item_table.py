"""All items that there are or were, by row, in a form that grows without copying.

A table is immutable to its readers. Its successor shares the storage: new rows are written behind
the end of the old table, where no reader of it looks. Where an old row changes, that column is
copied first. So a change that is cut short anywhere leaves the old table as it was, and what it
left behind the end is overwritten by the next change.
"""

import copy
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.item_slots import ItemSlots
from store_engine.catalog.new_items import NewItems
from store_engine.data.catalog import Catalog, unknown_item


class ItemTable:
    """Ids, texts and tokens of the first `num_rows` rows of a growing storage.

    `appended` may be called on the latest table only, by one thread at a time.

    Args:
        ids: The id of each row, and perhaps more.
        fields: Field name -> the text of each row, and perhaps more.
        row_of: Id -> row; an entry counts only if it is below `num_rows` and its row has this id.
        buffers: (capacity, tokens_per_item) int64 the tokens of each row, and perhaps more; and
            (capacity, num_levels) int32 its SID.
        num_rows: Rows of this table.
        item_slots: The items' vectors, where items are tokens of the model themselves.
    """

    def __init__(
        self,
        ids: list[str],
        fields: Mapping[str, list[str]],
        row_of: dict[str, int],
        buffers: tuple[Tensor, Tensor],
        num_rows: int,
        item_slots: ItemSlots | None = None,
    ) -> None:
        self._ids, self._row_of, self._buffers = ids, row_of, buffers
        self.fields = fields
        self.num_rows = num_rows
        self.tokens, self._sids = (buffer[:num_rows] for buffer in buffers)
        self.item_slots = item_slots

    @classmethod
    def from_catalog(
        cls,
        catalog: Catalog,
        tokens: Tensor,
        sids: NDArray[np.int32],
        item_slots: ItemSlots | None = None,
    ) -> "ItemTable":
        """Makes the first table.

        Args:
            catalog: The first items, in row order.
            tokens: (num_items, tokens_per_item) int64 unified ids: what a history reads.
            sids: (num_items, num_levels).
            item_slots: See the class.
        """
        table = cls(
            list(catalog.item_ids),
            {name: list(texts) for name, texts in catalog.fields.items()},
            {item_id: row for row, item_id in enumerate(catalog.item_ids)},
            (tokens, torch.tensor(sids)),
            catalog.num_items,
            item_slots,
        )
        table.__dict__["catalog"] = catalog  # what the cached property would build again
        return table

    @functools.cached_property
    def catalog(self) -> Catalog:
        """All items by row. O(num_rows) when it is first asked for."""
        fields = {name: tuple(texts[: self.num_rows]) for name, texts in self.fields.items()}
        return Catalog(tuple(self._ids[: self.num_rows]), fields)

    @property
    def sids(self) -> NDArray[np.int32]:
        """(num_rows, num_levels), the SID of each row."""
        sids: NDArray[np.int32] = self._sids.numpy()
        return sids

    def item_id(self, row: int) -> str:
        """Returns the id of a row."""
        return self._ids[row]

    def find(self, item_id: str) -> int:
        """Returns the row of an item, -1 where there never was such an item."""
        row = self._row_of.get(item_id, -1)
        return row if row < self.num_rows and self._ids[row] == item_id else -1

    def row_of(self, item_id: str) -> int:
        """Returns the row of an item.

        Raises:
            InputError: There never was such an item.
        """
        row = self.find(item_id)
        if row < 0:
            raise unknown_item(item_id, self, self.num_rows)
        return row

    def __contains__(self, item_id: object) -> bool:
        """Whether there is or was such an item."""
        return isinstance(item_id, str) and self.find(item_id) >= 0

    def rows_for(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Returns the rows of items to add: the old ones of known items, new ones for the others.

        Args:
            item_ids: Each once.
        """
        rows = np.array([self.find(item_id) for item_id in item_ids], dtype=np.int64)
        is_new = rows < 0
        rows[is_new] = self.num_rows + np.arange(is_new.sum())
        return rows

    def with_slots(self, item_slots: ItemSlots | None) -> "ItemTable":
        """Returns the same items with other vectors."""
        table = copy.copy(self)
        table.item_slots = item_slots
        return table

    def without_places(self, rows: NDArray[np.int64]) -> "ItemTable":
        """Returns the same items, where these leave their places in the trie to others."""
        if self.item_slots is None:
            return self
        return self.with_slots(self.item_slots.without_items(self.sids[rows]))

    def appended(
        self,
        new: NewItems,
        rows: NDArray[np.int64],
        tokens: Tensor,
    ) -> "ItemTable":
        """Returns a table with these items too; this one stays as it is.

        Args:
            new: The items, with every field of the table.
            rows: (num_items,) as `rows_for` says.
            tokens: (num_items, tokens_per_item) int64.
        """
        item_ids, fields = new.item_ids, new.fields
        is_old, num_rows = rows < self.num_rows, max(self.num_rows, int(rows.max(initial=-1)) + 1)
        added = np.flatnonzero(~is_old).tolist()
        old = [(int(rows[i]), i) for i in np.flatnonzero(is_old).tolist()]
        _write_end(self._ids, self.num_rows, [item_ids[i] for i in added])
        columns = {}
        for name, texts in self.fields.items():
            if old:
                texts = texts[: self.num_rows]
                for row, i in old:
                    texts[row] = fields[name][i]
            _write_end(texts, self.num_rows, [fields[name][i] for i in added])
            columns[name] = texts
        buffers = (
            self._written(self._buffers[0], rows, tokens),
            self._written(self._buffers[1], rows, torch.from_numpy(new.sids)),
        )
        self._row_of.update(zip(item_ids, rows.tolist(), strict=True))
        return ItemTable(self._ids, columns, self._row_of, buffers, num_rows, self.item_slots)

    def _written(self, buffer: Tensor, rows: NDArray[np.int64], values: Tensor) -> Tensor:
        """A buffer that holds the values in these rows; the readers' rows stay as they are."""
        num_rows = max(self.num_rows, int(rows.max(initial=-1)) + 1)
        if num_rows > len(buffer):
            capacity = num_rows + num_rows // 4 + 1024
            larger = buffer.new_zeros(capacity, buffer.shape[1])
            larger[: self.num_rows] = buffer[: self.num_rows]
            buffer = larger
        elif (rows < self.num_rows).any():
            buffer = buffer.clone()
        buffer[torch.from_numpy(rows).to(buffer.device)] = values
        return buffer


def _write_end(values: list[str], begin: int, end: list[str]) -> None:
    """Replaces whatever stands from `begin` on."""
    values[begin:] = end
