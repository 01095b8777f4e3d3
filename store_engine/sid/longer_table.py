"""SIDs of new items beside those there are: nobody else's changes.

The run's rule (new_sids.py) chooses, with more room at the last level than the table had: a suffix
may grow, as its rows are trained on.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config
from store_engine.errors import InputError
from store_engine.sid.clusters import MAX_CODEBOOK_SIZE, prefix_groups, rank_within, roomy_size
from store_engine.sid.new_sids import SidRule
from store_engine.sid.sid_table import SidTable
from store_engine.sid.sids_file import read_sids_of

Codes = NDArray[np.int32]


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
    if config.tokenizer.sids_file:
        new = read_sids_of(config, item_ids)[num_old:]
        if table.features is not None or config.tokenizer.collisions != "share":
            new = _numbered_on(new, table)
    else:
        new = _chosen(table, dense_tokens, config)
    largest, size = int(new[:, -1].max()) + 1, table.codebook_sizes[-1]
    if table.features is not None:  # as `item_sids` leaves room
        largest = roomy_size(largest)
    sizes = (*table.codebook_sizes[:-1], max(size, largest))
    sids = np.concatenate([table.sids, new]).astype(np.int32)
    return dataclasses.replace(table, sids=sids, codebook_sizes=sizes, item_ids=item_ids)


def _chosen(table: SidTable, dense_tokens: NDArray[np.float32], config: Config) -> Codes:
    """SIDs by the run's rule, in a table whose last level has more room."""
    room = table.codebook_sizes[-1]
    if table.features is not None:
        room = min(2 * room, MAX_CODEBOOK_SIZE)
    elif len(table.codebook_sizes) > config.tokenizer.num_codes:
        room = MAX_CODEBOOK_SIZE
    wider = dataclasses.replace(table, codebook_sizes=(*table.codebook_sizes[:-1], room))
    rule = SidRule(wider, config.tokenizer)
    return rule.choose(dense_tokens, rule.nearest(dense_tokens), table.sids).sids


def _numbered_on(codes: Codes, table: SidTable) -> Codes:
    """Codes of a file, new items numbered on behind the largest number of their codes."""
    old, suffixes = table.sids[:, :-1], table.sids[:, -1]
    groups = prefix_groups(np.concatenate([old, codes]))
    first = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.maximum.at(first, groups[: len(old)], suffixes + 1)
    own = groups[len(old) :]
    last = first[own] + rank_within(own)
    if last.max() >= MAX_CODEBOOK_SIZE:
        raise InputError(f"more than {MAX_CODEBOOK_SIZE:,} items would have the same codes")
    return np.column_stack([codes, last]).astype(np.int32)
