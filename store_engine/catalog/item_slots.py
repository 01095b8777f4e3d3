"""The vectors of items that are tokens of the model themselves, and where each stands in the trie.

An item has a *slot* for ever: the number of its row, and of its token. Under a prefix of codes a
table says the slot of every last code. All of it is immutable to its readers, as an `ItemTable` is:
new rows are written behind the end of what a reader sees, tables are replaced.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from store_engine.errors import InputError
from store_engine.model.store_model import StoreModel
from store_engine.sid.item_tokens import slot_order

_CHUNK = 1 << 16  # items whose embeddings are summed at once
# of the table of places, so that a catalogue cannot ask for far more memory than it has items
_MAX_PLACES_PER_ITEM, _MAX_EMPTY = 64, 1 << 24


@dataclass(frozen=True)
class ItemPlaces:
    """Which item stands where, when the last code of a SID is the item itself.

    Args:
        sizes: Codes per level of a prefix: all levels but the last.
        keys: (num_prefixes,) int64 ascending: the codes of each prefix as one number.
        slots: (num_prefixes, fanout) int32, the slot of each last code; -1 where there is no item.
    """

    sizes: tuple[int, ...]
    keys: Tensor
    slots: Tensor

    @classmethod
    def of(
        cls, sids: NDArray[np.int32], slots: NDArray[np.int64], sizes: tuple[int, ...], fanout: int
    ) -> "ItemPlaces":
        """Makes the places of items.

        Raises:
            InputError: Two items have one SID, there are too many prefixes to be counted, or their
                table would be nearly empty and large.
        """
        num_prefixes = len(np.unique(sids[:, :-1], axis=0))
        if num_prefixes * fanout > _MAX_EMPTY + _MAX_PLACES_PER_ITEM * len(sids):
            raise InputError(
                f"{fanout} last codes are too many for {len(sids):,} items behind "
                f"{num_prefixes:,} prefixes"
            )
        if math.prod(sizes) >= 1 << 62:
            raise InputError(f"items behind prefixes of {sizes} codes cannot be counted")
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, fanout, dtype=torch.int32)
        return cls(sizes, *nothing).with_items(sids, slots)

    def to(self, device: torch.device) -> "ItemPlaces":
        """Returns the same on another device."""
        return replace(self, keys=self.keys.to(device), slots=self.slots.to(device))

    def find(self, keys: Tensor) -> Tensor:
        """Finds prefixes by their keys, int64 of any shape: their indices, -1 for what is none."""
        found = torch.searchsorted(self.keys, keys.contiguous()).clamp(max=len(self.keys) - 1)
        return found.masked_fill(self.keys[found] != keys, -1)

    def with_items(self, sids: NDArray[np.int32], slots: NDArray[np.int64]) -> "ItemPlaces":
        """Returns the places of these items too.

        Args:
            sids: (num_items, num_levels).
            slots: (num_items,).

        Raises:
            InputError: A SID is taken.
        """
        device, fanout = self.keys.device, self.slots.shape[1]
        new, last = self._keys_of(sids), torch.from_numpy(sids[:, -1].astype(np.int64)).to(device)
        keys = torch.cat([self.keys, new]).unique()
        table = self.slots.new_full((len(keys), fanout), -1)
        table[torch.searchsorted(keys, self.keys)] = self.slots
        prefix = torch.searchsorted(keys, new)
        is_taken = (table[prefix, last] >= 0).cpu().numpy()
        place = (prefix * fanout + last).cpu().numpy()
        is_taken[np.setdiff1d(np.arange(len(place)), np.unique(place, return_index=True)[1])] = True
        if is_taken.any():
            raise InputError(f"two items have the SID {tuple(sids[is_taken.argmax()].tolist())}")
        table[prefix, last] = torch.from_numpy(slots).to(device, torch.int32)
        return replace(self, keys=keys, slots=table)

    def without_items(self, sids: NDArray[np.int32]) -> "ItemPlaces":
        """Returns the places without those of some items."""
        table = self.slots.clone()
        last = torch.from_numpy(sids[:, -1].astype(np.int64)).to(table.device)
        table[self.find(self._keys_of(sids)), last] = -1
        return replace(self, slots=table)

    def _keys_of(self, sids: NDArray[np.int32]) -> Tensor:
        keys = np.zeros(len(sids), dtype=np.int64)
        for level, size in enumerate(self.sizes):
            keys = keys * size + sids[:, level]
        return torch.from_numpy(keys).to(self.keys.device)


@dataclass(frozen=True)
class ItemSlots:
    """The vectors of all items that there are or were.

    Args:
        model: In eval mode; makes the vectors of new items.
        num_slots: Items so far.
        read: (num_slots or more, hidden_size), what a history's item is to the transformer; None:
            histories are codes, which the model has.
        written: (num_slots or more, hidden_size), what the last code's logits are made of; None: it
            is a code like the others.
        places: Where items stand; None where `written` is.
    """

    model: StoreModel
    num_slots: int
    read: Tensor | None = None
    written: Tensor | None = None
    places: ItemPlaces | None = None

    @classmethod
    def of(
        cls, model: StoreModel, sids: NDArray[np.int32], fanout: int
    ) -> tuple["ItemSlots", NDArray[np.int64]]:
        """Computes the vectors of a model's items.

        Args:
            model: In eval mode, with `items`.
            sids: (num_items, num_levels) by catalogue row.
            fanout: Codes of the last level.

        Returns:
            The vectors, and (num_items,) the slot of each catalogue row.

        Raises:
            InputError: The SIDs are not those of the model's items.
        """
        items, order = model.items, slot_order(sids)
        assert items is not None
        if not np.array_equal(sids[order][:, : items.codes.shape[1]], items.codes):
            raise InputError("the SIDs must be those that the model's items were given")
        slots = np.empty(len(sids), dtype=np.int64)
        slots[order] = np.arange(len(sids))
        with torch.inference_mode(False), torch.no_grad():  # they outlive the caller's mode
            rows = model.item_rows() if model.item_rows is not None else None
            read = rows.read if rows is not None else None
            if items.are_read:
                chunks = torch.arange(len(sids), device=model.slot_codes.device).split(_CHUNK)
                read = torch.cat([model.embed_items(chunk, rows) for chunk in chunks])
            places = None
            if rows is not None:
                places = ItemPlaces.of(sids, slots, model.codebook_sizes, fanout)
                places = places.to(rows.written.device)
            written = rows.written if rows is not None else None
            return cls(model, len(sids), read, written, places), slots

    def with_items(self, sids: NDArray[np.int32], features: ArrayLike | None) -> "ItemSlots":
        """Returns the vectors of new items too, whose slots follow in their order.

        Args:
            sids: (num_items, num_levels).
            features: (num_items, num_features) numbers that describe each item, where the model's
                items have rows.

        Raises:
            InputError: There are features where there must be none or the other way round, they are
                of another shape or not finite, or a SID is taken.
        """
        number = _check_features(features, len(sids), self.model)
        slots = self.num_slots + np.arange(len(sids))
        places = self.places.with_items(sids, slots) if self.places is not None else None
        with torch.inference_mode(False), torch.no_grad():
            rows, vectors = self._new_vectors(sids, number)
            read = _extended(self.read, self.num_slots, vectors)
            if self.written is self.read:
                written = read
            else:
                written = _extended(self.written, self.num_slots, rows)
        return replace(
            self, num_slots=self.num_slots + len(sids), read=read, written=written, places=places
        )

    def without_items(self, sids: NDArray[np.int32]) -> "ItemSlots":
        """Returns the vectors after some items were removed; histories may still name them."""
        if self.places is None:
            return self
        return replace(self, places=self.places.without_items(sids))

    def _new_vectors(
        self, sids: NDArray[np.int32], features: NDArray[np.float32] | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What is written and what is read of new items."""
        model, rows = self.model, None
        weight = model.code_embedding.weight
        if model.item_rows is not None and features is not None:
            rows = model.item_rows.new_rows(torch.from_numpy(features).to(weight))
        if model.items is None or not model.items.are_read:
            return rows, rows
        offsets = np.array(model.vocabulary.code_offsets)
        codes = torch.from_numpy(sids[:, : len(offsets)] + offsets).to(weight.device)
        summed = model.code_embedding(codes).sum(-2)
        return rows, summed if rows is None else rows + summed


def _check_features(
    features: ArrayLike | None, num_items: int, model: StoreModel
) -> NDArray[np.float32] | None:
    want = model.items.num_features if model.items is not None else 0
    if features is None and not want:
        return None
    if features is None:
        raise InputError(
            f"new items need features, ({num_items}, {want}) numbers: the last code is the item "
            "itself, and what it is must be said"
        )
    if not want:
        raise InputError("features are of use only where the last code is the item itself")
    array = np.asarray(features)
    if array.shape != (num_items, want) or array.dtype.kind not in "fiu":
        raise InputError(
            f"features must be ({num_items}, {want}) numbers, got {array.shape} of {array.dtype}"
        )
    with np.errstate(over="ignore"):  # the result is looked at
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InputError("features must be finite")
    return numbers


def _extended(buffer: Tensor | None, size: int, new: Tensor | None) -> Tensor | None:
    """The first `size` rows and new ones; the storage grows by a quarter when it is full."""
    if buffer is None or new is None:
        return buffer
    end = size + len(new)
    if end > len(buffer):
        larger = buffer.new_zeros(end + end // 4 + 1024, buffer.shape[1])
        larger[:size] = buffer[:size]
        buffer = larger
    buffer[size:end] = new
    return buffer
