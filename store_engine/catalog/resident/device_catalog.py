"""The catalogue as a CUDA graph reads it: arrays on the device that stay where they are.

A graph holds addresses, and shapes. So the arrays have room to grow, and another catalogue, such as
the one after a change, is written into the same memory; where it does not fit, or a batch names
more item sets than there is room for, the memory is made anew and so must the graphs be
(`generation`). All ids are int32. Reading and writing must not overlap: see `hold`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import RowSet
from store_engine.catalog.catalog_view import StaticView
from store_engine.catalog.item_sets import ItemSets
from store_engine.catalog.item_slots import ItemSlots
from store_engine.catalog.resident.host_arrays import HostArrays, token_dtype
from store_engine.catalog.resident.resident_rows import ResidentPlaces, ResidentRows
from store_engine.catalog.resident.resident_sets import ResidentSets
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.trie_topk import Level

Int32 = NDArray[np.int32]


class Wanted(NamedTuple):
    """What the requests of a batch may be given, as the host hands it to a search."""

    set_index: Int32  # (batch,): the set on the device; -1: all items
    excluded: list[Int32]  # per request the places that are left out, ascending


class DeviceCatalog:
    """One catalogue at a time, on a device.

    Whoever reads the tensors calls `hold` first, and lets nobody else call it until the device has
    read them.

    Args:
        device: Where the arrays are.

    Attributes:
        generation: Number of the memory; another one means other tensors.
        capacity: Per level, the root's first, the nodes that there is room for.
        leaf_room: Items that a leaf may have.
        rows: Tables of the items, once `hold` was asked for them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.generation = device, 0
        self.capacity: tuple[int, ...] = ()
        self.leaf_room = 1
        self._view: StaticView | None = None
        self._codebook_sizes: list[int] = []
        self._child_begin: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._item_begin: list[Tensor] = []
        self._sets = ResidentSets(device)
        self.history_tokens: NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self._row_of_place: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.places: ResidentPlaces | None = None
        self._prefixes: Tensor | None = None  # of every place, in `places`
        self.rows: ResidentRows | None = None

    def hold(
        self, view: StaticView, needs_rows: bool = False, arrays: HostArrays | None = None
    ) -> None:
        """Writes a catalogue into the memory, unless it is there already. O(number of items).

        Args:
            view: The catalogue; its trie has fewer than 2^31 - 1 items.
            needs_rows: From now on `rows` too.
            arrays: Of the view; None: they are made here, where they are needed.
        """
        held, is_missing = self._view, needs_rows and self.rows is None
        if held is not None and held.trie is view.trie and held.table is view.table:
            if is_missing:
                self._hold_rows(view)
            return
        arrays = arrays or HostArrays.of(view)
        self._view = None  # until all is there
        if held is None or held.trie is not view.trie:
            self._fit(arrays)
            self._write(arrays)
            self._sets.clear(arrays.place_of_row)
            self._row_of_place = arrays.row_of_place
        self.history_tokens = arrays.history_tokens
        self._hold_places(view.table.item_slots, arrays)
        if is_missing or self.rows is not None:
            self._hold_rows(view)
        self._view = view

    def hold_sets(self, sets: ItemSets) -> None:
        """Writes the item sets of the catalogue that is held, the newest, where there is room."""
        self._sets.index(sets.newest(len(self._sets.words)))

    def level(self, level: int) -> Level:
        """Returns the step from a level's nodes to the next; nodes past the trie's are unused."""
        return Level(self._child_begin[level], self._tokens[level])

    @property
    def leaf_begin(self) -> Tensor:
        """(num_leaves + 1 or more,) int32: the place of each leaf's first item."""
        return self._item_begin[-1]

    def rows_of_places(self, places: NDArray[np.int32]) -> NDArray[np.int64]:
        """Returns the catalogue rows of places, any shape; -1 stands for none."""
        return self._row_of_place[places]

    def filter(self, level: int, set_index: Tensor, excluded: Tensor) -> Filter:
        """Returns the filter of the children of a level's nodes.

        Args:
            level: Of the parents.
            set_index: (batch,) int32 on the device.
            excluded: (batch, num_excluded) int32 on the device.
        """
        sets = self._sets
        return Filter(sets.words, sets.ranks, set_index, excluded, self._item_begin[level + 1])

    def want(
        self, allowed: Sequence[RowSet | None], excluded: Sequence[NDArray[np.int64]]
    ) -> Wanted:
        """Prepares the filter of a batch; sets that are not on the device go there.

        Args:
            allowed: Per request the set that it may be given; None: everything.
            excluded: Per request the trie's rows that it may not be given, repeats allowed.
        """
        named = list(dict.fromkeys(one for one in allowed if one is not None))
        if self._sets.make_room(len(named)):
            self.generation += 1
        index = self._sets.index(named)
        set_index = [-1 if one is None else index[one] for one in allowed]
        places = [self._sets.places(rows, at) for rows, at in zip(excluded, set_index, strict=True)]
        return Wanted(np.array(set_index, dtype=np.int32), places)

    @property
    def num_items(self) -> int:
        """Items of the catalogue, one past the last place."""
        assert self._view is not None
        return self._view.trie.num_items

    def _fit(self, arrays: HostArrays) -> None:
        """Makes memory with room to grow, where the catalogue does not fit."""
        sizes, codes = arrays.level_sizes, arrays.codebook_sizes
        num_items = len(arrays.place_of_row)
        fits = len(sizes) == len(self.capacity) and codes == self._codebook_sizes
        fits = fits and all(n <= room for n, room in zip(sizes, self.capacity, strict=True))
        largest = int(arrays.item_begin[-1].diff().max())
        fits = fits and largest <= self.leaf_room
        if fits and self._sets.fits(num_items):
            return
        rooms, most = [1], 1
        for size, code in zip(sizes[1:], codes, strict=True):
            most = min(most * code, 1 << 31)
            rooms.append(min(most, size + size // 4 + 64))
        self.capacity, self._codebook_sizes = tuple(rooms), codes
        self.leaf_room = 1 << (largest - 1).bit_length()
        self._child_begin = [self._new(room + 1) for room in rooms[:-1]]
        self._tokens = [
            self._new(room, token_dtype(size)) for room, size in zip(rooms[1:], codes, strict=True)
        ]
        self._item_begin = [self._new(room + 1) for room in rooms]
        self._sets.resize(num_items)
        self.generation += 1

    def _write(self, arrays: HostArrays) -> None:
        tensors = [*self._child_begin, *self._tokens, *self._item_begin]
        new = [*arrays.child_begin, *arrays.token, *arrays.item_begin]
        for tensor, array in zip(tensors, new, strict=True):
            tensor[: len(array)].copy_(array)

    def _hold_places(self, item_slots: ItemSlots | None, arrays: HostArrays) -> None:
        """Writes where items stand, when they are the last codes themselves."""
        places = item_slots.places if item_slots is not None else None
        if places is None:
            self.places, self._prefixes = None, None
            return
        if self.places is None or not self.places.fits(places, self.capacity[-2]):
            self.places = ResidentPlaces(places, self.capacity[-2])
            self.generation += 1
        prefixes = self.places.write(places, arrays.prefix_keys(places.sizes))
        self._prefixes = prefixes.repeat_interleave(arrays.item_begin[-2].diff())

    def _hold_rows(self, view: StaticView) -> None:
        """Writes the tables of the items."""
        sids = view.table.sids
        if self.rows is None or not self.rows.fits(sids):
            self.rows = ResidentRows(sids, self.device)
            self.generation += 1
        self.rows.write(sids, self._row_of_place[:-1], self._prefixes)

    def _new(self, length: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(length, dtype=dtype, device=self.device)
