"""SIDs of new items, by the rule that a run's own items got theirs.

A new item takes its codes from the run's quantiser. What comes after them is chosen by the run's
`tokenizer.collisions` and `tokenizer.last_level`: the lowest free suffix, the nearest free
combination of codes, the same SID for several, or a place of its own in the nearest cluster.
"""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store_engine.config import TokenizerConfig
from store_engine.errors import InputError
from store_engine.sid.kmeans import Vectors, check_vectors
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.quantizers.quantizer import Quantizer
from store_engine.sid.sid_table import SidTable

Codes = NDArray[np.int32]

_MAX_CANDIDATES = 64  # combinations of codes that are tried before a new item is refused
_HASH_SEED = 11


class NewSids(NamedTuple):
    """What new items are to be found by."""

    sids: Codes  # (num_items, num_levels)
    features: Vectors | None  # (num_items, num_features), where the last code is the item itself
    num_moved: int  # items whose nearest codes had no room


class NewItemCodes(NamedTuple):
    """What new items' vectors say, before it is known which places are free."""

    codes: Codes  # (num_items, num_codes), the nearest
    features: Vectors | None
    distances: Vectors  # (num_items,) squared, to the nearest codes

    def of(self, is_wanted: NDArray[np.bool_]) -> "NewItemCodes":
        """Returns those of some items."""
        features = None if self.features is None else self.features[is_wanted]
        return NewItemCodes(self.codes[is_wanted], features, self.distances[is_wanted])


class SidRule:
    """How a run gives SIDs.

    Args:
        table: The run's SIDs.
        settings: `[tokenizer]` of the run.

    Raises:
        InputError: New items cannot get SIDs: the run's were brought as a file, or were made of
            co-visits, where a new item has no place.
    """

    def __init__(self, table: SidTable, settings: TokenizerConfig) -> None:
        if table.quantizer is None:
            raise InputError("the run's SIDs were brought as a file, they have no codebook")
        if settings.space == "collaborative" and settings.last_level == "code":
            raise InputError(
                "the run's codes were made of co-visits (tokenizer.space = 'collaborative'), where "
                "a new item has no place; give its SID yourself, or train with last_level = 'item'"
            )
        self._quantizer: Quantizer = table.quantizer
        self._features, self._sizes = table.features, table.codebook_sizes
        self._how, self._num_codes = settings.collisions, settings.num_codes
        if isinstance(self._quantizer, ItemClusters):
            self._num_codes = len(self._sizes) - 1

    @property
    def num_codes(self) -> int:
        """Codes of a SID that say what the item is; behind them is what tells items apart."""
        return self._num_codes

    def nearest(self, dense_tokens: Vectors) -> NewItemCodes:
        """Finds the nearest codes.

        Args:
            dense_tokens: (num_items, num_codes, hidden_size) float32.

        Raises:
            InputError: A vector is not finite.
        """
        check_vectors(dense_tokens)
        quantizer = self._quantizer
        if self._features is None or not isinstance(quantizer, ItemClusters):
            codes, distances = quantizer.encode(dense_tokens), quantizer.distances(dense_tokens)
            chosen = np.take_along_axis(distances, codes[:, :, None], 2)[:, :, 0]
            return NewItemCodes(codes, None, chosen.sum(1))
        features = self._features(dense_tokens)
        codes, distances = quantizer.nearest(features[:, None])
        return NewItemCodes(codes, features, distances)

    def choose(self, dense_tokens: Vectors, found: NewItemCodes, taken: Codes) -> NewSids:
        """Gives every new item its SID.

        Args:
            dense_tokens: As for `nearest`.
            found: What `nearest` found.
            taken: (num_items, num_levels) int32, the SIDs in use.

        Raises:
            InputError: There is no room.
        """
        quantizer = self._quantizer
        if isinstance(quantizer, ItemClusters):
            assert found.features is not None
            sids = quantizer.new_sids(found.features[:, None], taken, self._sizes[-1])
            is_moved = (sids[:, :-1] != found.codes).any(1)
            return NewSids(sids, found.features, int(is_moved.sum()))
        if len(self._sizes) == self._num_codes and self._how == "share":
            return NewSids(found.codes, None, 0)
        return self._place(found.codes, dense_tokens, taken)

    def _place(self, codes: Codes, dense_tokens: Vectors, taken: Codes) -> NewSids:
        has_suffix = len(self._sizes) > self._num_codes
        size = self._sizes[-1] if has_suffix else 1
        used = _Used(taken, self._num_codes, codes)
        sids = np.zeros((len(codes), len(self._sizes)), dtype=np.int32)
        # an item that has to itself what `reassign` promises; else as many as there are suffixes
        rooms = (1, size) if self._how == "reassign" and size > 1 else (size,)
        waiting = []
        for item, own in enumerate(map(tuple, codes.tolist())):
            suffix = used.take(own, rooms[0], size)
            if suffix is None:
                waiting.append(item)
            else:
                sids[item] = (*own, suffix)[: len(self._sizes)]
        if waiting:
            distances = self._quantizer.distances(dense_tokens[waiting])
            near = [list(_nearest_first(one)) for one in distances]
            flat = np.array([sid for one in near for sid in one], dtype=np.int32)
            used.look_up(flat)
            for item, candidates in zip(waiting, near, strict=True):
                sids[item] = self._place_one(candidates, used, rooms, size)
        return NewSids(sids, None, len(waiting))

    def _place_one(
        self, candidates: list[tuple[int, ...]], used: "_Used", rooms: tuple[int, ...], size: int
    ) -> tuple[int, ...]:
        for room in rooms:
            for candidate in candidates:
                suffix = used.take(candidate, room, size)
                if suffix is not None:
                    return (*candidate, suffix)[: len(self._sizes)]
        raise InputError(
            f"a new item does not fit: its {len(candidates)} nearest combinations of codes have no "
            f"room for another item; remove items, or train anew with it in the catalogue"
        )


class _Used:
    """Which suffixes are in use behind the prefixes that matter, new items' counted as they come.

    Args:
        taken: (num_items, num_levels) int32.
        num_codes: Levels of a prefix.
        prefixes: (n, num_codes) int32, the first that are asked for.
    """

    def __init__(self, taken: Codes, num_codes: int, prefixes: Codes) -> None:
        self._taken, self._num_codes = taken, num_codes
        random = np.random.default_rng(_HASH_SEED)
        self._factors = random.integers(1, 1 << 63, num_codes, dtype=np.uint64) | np.uint64(1)
        self._hashes = self._hash(taken[:, :num_codes])
        self._suffixes: dict[tuple[int, ...], set[int]] = {}
        self.look_up(prefixes)

    def look_up(self, prefixes: Codes) -> None:
        """Finds what is in use behind some prefixes; only these are gone through one by one."""
        unique = {tuple(prefix) for prefix in prefixes.tolist()}
        fresh = unique - self._suffixes.keys()
        self._suffixes |= {prefix: set() for prefix in fresh}
        if not fresh:
            return
        wanted = np.unique(self._hash(np.array(sorted(fresh), dtype=np.int32)))
        for sid in self._taken[np.isin(self._hashes, wanted)].tolist():
            prefix = tuple(sid[: self._num_codes])
            if prefix in fresh:  # others only have the same hash
                self._suffixes[prefix].add(sid[-1] if len(sid) > self._num_codes else 0)

    def take(self, prefix: tuple[int, ...], room: int, size: int) -> int | None:
        """Takes the lowest free suffix behind a prefix; None if it has `room` items already."""
        used = self._suffixes[prefix]
        if len(used) >= room:
            return None
        suffix = next(code for code in range(size) if code not in used)
        used.add(suffix)
        return suffix

    def _hash(self, prefixes: Codes) -> NDArray[np.uint64]:
        mixed = prefixes.astype(np.uint64) * self._factors
        mixed ^= mixed >> np.uint64(29)
        return (mixed * self._factors).sum(1, dtype=np.uint64)


def _nearest_first(distances: Vectors) -> Iterator[tuple[int, ...]]:
    """Lists combinations of codes of one item, nearest first, at most 64.

    Args:
        distances: (num_codes, codebook_size) squared.
    """
    order = np.argsort(distances, axis=1, kind="stable")
    costs = np.take_along_axis(distances, order, 1).astype(np.float64)
    start = (0,) * len(order)
    heap, seen = [(float(costs[:, 0].sum()), start)], {start}
    for _ in range(_MAX_CANDIDATES):
        if not heap:
            return
        _, ranks = heapq.heappop(heap)
        yield tuple(int(order[level, rank]) for level, rank in enumerate(ranks))
        for level, rank in enumerate(ranks):
            further = (*ranks[:level], rank + 1, *ranks[level + 1 :])
            if rank + 1 < order.shape[1] and further not in seen:
                seen.add(further)
                total = sum(costs[n, r] for n, r in enumerate(further))
                heapq.heappush(heap, (float(total), further))
