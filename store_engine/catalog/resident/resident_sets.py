"""Item sets as bits on a device."""

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine._C import RowSet

_MAX_SETS = 64  # that stay on the device; a batch may name more
_NUM_SETS = 8  # to begin with

Int32 = NDArray[np.int32]


class ResidentSets:
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
