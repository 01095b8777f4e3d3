"""The catalogue as a CUDA graph reads it: arrays on the device that stay where they are.

A graph holds addresses, and shapes. So the arrays have room to grow, and another catalogue, such as
the one after a change, is written into the same memory; where it does not fit, or a batch names
more item sets than there is room for, the memory is made anew and so must the graphs be
(`generation`). All ids are int32. Reading and writing must not overlap: see `hold`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import RowSet
from store_engine.catalog.catalog_view import StaticView
from store_engine.catalog.item_sets import ItemSets
from store_engine.catalog.item_slots import ItemPlaces, ItemSlots
from store_engine.catalog.resident_rows import ResidentRows
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.kernels.trie_select import Filter
from store_engine.kernels.trie_topk import Level

_MAX_SETS = 64  # that stay on the device; a batch may name more
_NUM_SETS = 8  # to begin with

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
        self._sets = _ResidentSets(device)
        self.history_tokens: NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self._row_of_place: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.places: ResidentPlaces | None = None
        self._prefixes: Tensor | None = None  # of every place, in `places`
        self.rows: ResidentRows | None = None

    def hold(self, view: StaticView, needs_rows: bool = False) -> None:
        """Writes a catalogue into the memory, unless it is there already. O(number of items).

        Args:
            view: The catalogue; its trie has fewer than 2^31 - 1 items.
            needs_rows: From now on `rows` too.
        """
        held, is_missing = self._view, needs_rows and self.rows is None
        if held is not None and held.trie is view.trie and held.table is view.table:
            if is_missing:
                self._hold_rows(view)
            return
        trie = TrieArrays(view.trie.item_trie)  # on the host
        if held is None or held.trie is not view.trie:
            self._fit(trie)
            self._write(trie)
            self._sets.clear(trie.ranks.int().numpy())
            self._row_of_place = np.append(view.rows(trie.rows.numpy()), -1)
            self._view = None  # until all is there
        self.history_tokens = view.tokens.cpu().numpy()
        self._hold_places(view.table.item_slots, trie)
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

    def _fit(self, trie: TrieArrays) -> None:
        """Makes memory with room to grow, where the catalogue does not fit."""
        sizes, codes = trie.level_sizes, trie.codebook_sizes
        fits = len(sizes) == len(self.capacity) and codes == self._codebook_sizes
        fits = fits and all(n <= room for n, room in zip(sizes, self.capacity, strict=True))
        largest = int(trie.item_begin[-1].diff().max())
        fits = fits and largest <= self.leaf_room
        if fits and self._sets.fits(trie.num_items):
            return
        rooms, most = [1], 1
        for size, code in zip(sizes[1:], codes, strict=True):
            most = min(most * code, 1 << 31)
            rooms.append(min(most, size + size // 4 + 64))
        self.capacity, self._codebook_sizes = tuple(rooms), codes
        self.leaf_room = 1 << (largest - 1).bit_length()
        self._child_begin = [self._new(room + 1) for room in rooms[:-1]]
        self._tokens = [
            self._new(room, torch.uint8 if size <= 256 else torch.int32)
            for room, size in zip(rooms[1:], codes, strict=True)
        ]
        self._item_begin = [self._new(room + 1) for room in rooms]
        self._sets.resize(trie.num_items)
        self.generation += 1

    def _write(self, trie: TrieArrays) -> None:
        tensors = [*self._child_begin, *self._tokens, *self._item_begin]
        new = [*trie.child_begin, *trie.token, *trie.item_begin]
        for tensor, array in zip(tensors, new, strict=True):
            tensor[: len(array)].copy_(array.to(tensor.dtype))

    def _hold_places(self, item_slots: ItemSlots | None, trie: TrieArrays) -> None:
        """Writes where items stand, when they are the last codes themselves."""
        places = item_slots.places if item_slots is not None else None
        if places is None:
            self.places, self._prefixes = None, None
            return
        if self.places is None or not self.places.fits(places, self.capacity[-2]):
            self.places = ResidentPlaces(places, self.capacity[-2])
            self.generation += 1
        prefixes = self.places.write(places, _prefix_keys(trie, places.sizes))
        self._prefixes = prefixes.repeat_interleave(trie.item_begin[-2].diff())

    def _hold_rows(self, view: StaticView) -> None:
        """Writes the tables of the items."""
        sids = view.table.sids
        if self.rows is None or not self.rows.fits(sids):
            self.rows = ResidentRows(sids, self.device)
            self.generation += 1
        self.rows.write(sids, self._row_of_place[:-1], self._prefixes)

    def _new(self, length: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(length, dtype=dtype, device=self.device)


def _prefix_keys(trie: TrieArrays, sizes: tuple[int, ...]) -> Tensor:
    """The codes of every node of the last level but one, as `ItemPlaces` counts them: int64."""
    keys = torch.zeros(1, dtype=torch.int64)
    for begin, token, size in zip(trie.child_begin, trie.token, sizes, strict=False):
        keys = keys.repeat_interleave(begin.diff()) * size + token
    return keys


class ResidentPlaces:
    """`ItemPlaces` in memory with room to grow.

    Args:
        places: What there must be room for.
        num_nodes: Nodes of the last level but one that there is room for.

    Attributes:
        slots: (num_prefixes or more, fanout) int32, as those of `ItemPlaces`.
        prefix_of_node: (num_nodes,) int64, the row of `slots` of each node of the last level but
            one.
    """

    def __init__(self, places: ItemPlaces, num_nodes: int) -> None:
        num_prefixes, fanout = places.slots.shape
        room = num_prefixes + num_prefixes // 4 + 64
        self.slots = places.slots.new_full((room, fanout), -1)
        self.prefix_of_node = places.keys.new_zeros(num_nodes)

    def fits(self, places: ItemPlaces, num_nodes: int) -> bool:
        """Says whether there is room."""
        return len(places.slots) <= len(self.slots) and num_nodes == len(self.prefix_of_node)

    def write(self, places: ItemPlaces, node_keys: Tensor) -> Tensor:
        """Replaces what is there, and returns the row of `slots` of each node.

        Args:
            places: Of the catalogue.
            node_keys: (num_nodes,) int64 on the CPU, the key of each node's prefix; all are in
                `places`.
        """
        self.slots[: len(places.slots)].copy_(places.slots)
        prefixes = torch.searchsorted(places.keys.cpu(), node_keys)
        self.prefix_of_node[: len(prefixes)].copy_(prefixes)
        return prefixes


class _ResidentSets:
    """Item sets as bits on the device; the ones that were not used for the longest time go.

    Args:
        device: Where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.words = torch.zeros(_NUM_SETS, 0, dtype=torch.int32, device=device)
        self.ranks = self.words
        self._bits: NDArray[np.uint32] = np.zeros((_NUM_SETS, 0), dtype=np.uint32)
        self._index: OrderedDict[RowSet, int] = OrderedDict()  # the oldest use first
        self._place_of_row: Int32 = np.zeros(0, dtype=np.int32)

    def fits(self, num_items: int) -> bool:
        """Says whether there is room for sets of so many items, and for one bit more."""
        return num_items < 32 * self._bits.shape[1]

    def resize(self, num_items: int) -> None:
        """Makes room for sets of more items, which are lost."""
        self._allocate(len(self._bits), (num_items + num_items // 4 + 64) // 32 + 1)

    def clear(self, place_of_row: Int32) -> None:
        """Forgets all sets: they were of another trie."""
        self._index.clear()
        self._place_of_row = place_of_row

    def make_room(self, num: int) -> bool:
        """Makes room for a batch's sets; returns True where the memory had to be made anew."""
        if num <= len(self._bits):
            return False
        self._allocate(max(num, min(2 * len(self._bits), _MAX_SETS)), self._bits.shape[1])
        return True

    def index(self, named: list[RowSet]) -> dict[RowSet, int]:
        """Returns where each set is; there is room for them all."""
        for one in named:
            if one in self._index:
                self._index.move_to_end(one)
        for one in named:
            if one not in self._index:
                at = len(self._index)
                if at == len(self._bits):
                    _, at = self._index.popitem(last=False)
                self._write(at, one)
                self._index[one] = at
        return {one: self._index[one] for one in named}

    def places(self, rows: NDArray[np.int64], index: int) -> Int32:
        """Returns the places of some rows that are in a set, each once, ascending.

        Args:
            rows: Rows of the trie.
            index: The set; -1: all items.
        """
        places: Int32 = np.unique(self._place_of_row[rows])
        if index < 0:
            return places
        words = self._bits[index, places >> 5]
        return places[(words >> (places & 31).astype(np.uint32)) & 1 != 0]

    def _allocate(self, num_sets: int, num_words: int) -> None:
        self._index.clear()
        self._bits = np.zeros((num_sets, num_words), dtype=np.uint32)
        shape = num_sets, num_words
        self.words = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self.ranks = torch.zeros(shape, dtype=torch.int32, device=self._device)

    def _write(self, at: int, row_set: RowSet) -> None:
        is_in = np.zeros(32 * self._bits.shape[1], dtype=bool)
        is_in[self._place_of_row[row_set.rows()]] = True
        counts = is_in.reshape(-1, 32).sum(1, dtype=np.int32)
        ranks = np.cumsum(counts, dtype=np.int32) - counts
        self._bits[at] = np.packbits(is_in, bitorder="little").view("<u4")
        self.words[at].copy_(torch.from_numpy(self._bits[at].view(np.int32)))
        self.ranks[at].copy_(torch.from_numpy(ranks))
