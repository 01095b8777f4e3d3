"""SIDs of new items beside those there are: nobody else's changes.

The run's quantiser gives the codes that describe an item; what tells apart the items of the same
codes (a suffix, a free combination nearby, the item's own last code) goes on where the table ends.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config
from store_engine.errors import InputError
from store_engine.sid.clusters import rank_within
from store_engine.sid.collisions import nearest_free
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.sid_table import SidTable
from store_engine.sid.sids_file import read_sids_of

Codes = NDArray[np.int32]
_MAX_CODEBOOK_SIZE = 1 << 16  # of the core's trie


def extended(
    table: SidTable, item_ids: Sequence[str], dense_tokens: NDArray[np.float32], config: Config
) -> SidTable:
    """Adds new items to a table.

    Args:
        table: SIDs of the items there are, which stay what they are.
        item_ids: All items, those of the table first, in its order.
        dense_tokens: (num_new, num_codes, hidden_size) of the others, by the table's LLM.
        config: The run's config.

    Returns:
        The SIDs of all items. The last level's codebook may have grown: a suffix by as many as are
        needed, one of items so that every cluster has room for as many more as the largest has.

    Raises:
        InputError: A new item finds no place, or its codes cannot be known from its text.
    """
    item_ids, num_old = tuple(item_ids), len(table.item_ids)
    if item_ids[:num_old] != table.item_ids:
        raise ValueError("the first items must be those of the table, in its order")
    if len(item_ids) == num_old:
        return table
    if table.features is not None:
        new, size = _item_codes(table, dense_tokens)
    else:
        new, size = _codes(table, item_ids, dense_tokens, config)
    sizes = (*table.codebook_sizes[:-1], max(size, table.codebook_sizes[-1]))
    sids = np.concatenate([table.sids, new]).astype(np.int32)
    return dataclasses.replace(table, sids=sids, codebook_sizes=sizes, item_ids=item_ids)


def _item_codes(table: SidTable, dense_tokens: NDArray[np.float32]) -> tuple[Codes, int]:
    """SIDs whose last code is the item itself, and the size of the last codebook."""
    assert table.features is not None
    if not isinstance(table.quantizer, ItemClusters):
        raise InputError("the SID table has no clusters to find those of new items by")
    before = table.codebook_sizes[-1]
    described, room = table.features(dense_tokens), min(2 * before, _MAX_CODEBOOK_SIZE)
    new = table.quantizer.new_sids(described[:, None], table.sids, room)
    largest = int(new[:, -1].max()) + 1
    return new, min(max(before, 1 << (2 * largest - 1).bit_length()), _MAX_CODEBOOK_SIZE)


def _codes(
    table: SidTable,
    item_ids: tuple[str, ...],
    dense_tokens: NDArray[np.float32],
    config: Config,
) -> tuple[Codes, int]:
    """SIDs whose codes all describe the item, and the size of the last codebook."""
    settings, num_old = config.tokenizer, len(table.item_ids)
    distances = np.zeros((0, 0, 0), np.float32)
    if settings.sids_file:
        codes = read_sids_of(config, item_ids)[num_old:]
    elif settings.space == "collaborative":
        raise InputError(
            "the run's codes were cut from co-visits (tokenizer.space = 'collaborative', "
            "last_level = 'code'), which say nothing of new items: train anew, or with "
            "last_level = 'item'"
        )
    elif table.quantizer is None:
        raise InputError("the run's SIDs were brought as a file, they have no codebook")
    else:
        codes = table.quantizer.encode(dense_tokens)
        if settings.collisions == "reassign":
            distances = table.quantizer.distances(dense_tokens)
    if settings.collisions == "share":
        return codes, table.codebook_sizes[-1]
    if settings.collisions == "reassign":
        taken = table.sids[:, : settings.num_codes]
        codes = nearest_free(codes, distances, taken)
    if len(table.codebook_sizes) > settings.num_codes:
        return _with_suffixes(codes, table)
    both = np.concatenate([table.sids, codes])
    _, counts = np.unique(both, axis=0, return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"{int((counts - 1).sum()):,} new items have the codes of others, with no free ones "
            f"nearby (tokenizer.collisions = 'reassign'); train anew with them in the catalogue"
        )
    return codes, table.codebook_sizes[-1]


def _with_suffixes(codes: Codes, table: SidTable) -> tuple[Codes, int]:
    """Numbers new items on behind the largest suffix of their codes."""
    old, suffixes = table.sids[:, :-1], table.sids[:, -1]
    _, groups = np.unique(np.concatenate([old, codes]), axis=0, return_inverse=True)
    groups = groups.reshape(-1)
    first = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.maximum.at(first, groups[: len(old)], suffixes + 1)
    own = groups[len(old) :]
    last = first[own] + rank_within(own)
    if last.max() >= _MAX_CODEBOOK_SIZE:
        raise InputError(f"more than {_MAX_CODEBOOK_SIZE:,} items would have the same codes")
    return np.column_stack([codes, last]).astype(np.int32), int(last.max()) + 1
