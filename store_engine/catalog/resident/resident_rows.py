"""What a search on a device needs of items that it is given by name: where they stand, their codes.

All tables have room to grow. The last entry of `ResidentRows` stands for no item: an index of -1
finds it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.catalog.item_slots import ItemPlaces


class ResidentRows:
    """Tables of the items of a catalogue.

    Args:
        sids: (num_rows, num_levels) int32 by catalogue row: what there must be room for.
        device: Where they are.

    Attributes:
        place_of_row: (room,) int32, where each item stands in SID order; -1: it is not there.
        row_of_place: (room,) int32, the catalogue row of each place.
        codes: (room, num_levels) int32, by catalogue row.
        prefix_of_place: (room,) int64, where each item's prefix stands in the table of
            `ItemPlaces`; zeros where there is none.
    """

    def __init__(self, sids: NDArray[np.int32], device: torch.device) -> None:
        num_rows, num_levels = sids.shape
        room = num_rows + num_rows // 4 + 64
        self.place_of_row = torch.full((room,), -1, dtype=torch.int32, device=device)
        self.row_of_place = torch.full((room,), -1, dtype=torch.int32, device=device)
        self.codes = torch.zeros(room, num_levels, dtype=torch.int32, device=device)
        self.prefix_of_place = torch.zeros(room, dtype=torch.int64, device=device)

    def fits(self, sids: NDArray[np.int32]) -> bool:
        """Says whether there is room."""
        return len(sids) < len(self.codes) and sids.shape[1] == self.codes.shape[1]

    def write(
        self, sids: NDArray[np.int32], row_of_place: NDArray[np.int64], prefixes: Tensor | None
    ) -> None:
        """Replaces what is there.

        Args:
            sids: (num_rows, num_levels) by catalogue row.
            row_of_place: (num_items,) catalogue rows.
            prefixes: (num_items,) int64, for `prefix_of_place`.
        """
        places = np.full(len(self.place_of_row), -1, dtype=np.int32)
        places[row_of_place] = np.arange(len(row_of_place), dtype=np.int32)
        rows = np.full(len(places), -1, dtype=np.int32)
        rows[: len(row_of_place)] = row_of_place
        self.place_of_row.copy_(torch.from_numpy(places))
        self.row_of_place.copy_(torch.from_numpy(rows))
        self.codes[: len(sids)].copy_(torch.tensor(sids))
        if prefixes is not None:
            self.prefix_of_place[: len(prefixes)].copy_(prefixes)


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
