"""Whether a trie and a table of SIDs are of the same items."""

import numpy as np
from numpy.typing import NDArray

from store_engine._C import ItemTrie


def trie_holds(trie: ItemTrie, sids: NDArray[np.integer]) -> bool:
    """Whether the rows of a trie have these SIDs; O(num_items * num_levels).

    Args:
        trie: The trie.
        sids: (num_items, num_levels), each row's SID.
    """
    if sids.shape != (trie.num_items, trie.num_levels):
        return False
    columns: list[NDArray[np.unsignedinteger]] = []  # per level the code of each node so far
    for level in range(trie.num_levels):
        child_begin, tokens = trie.level(level)
        columns = [*(column.repeat(np.diff(child_begin)) for column in columns), tokens]
    offsets, rows = trie.leaf_rows(np.arange(trie.level_sizes[-1], dtype=np.int64))
    num_rows, codes = np.diff(offsets), sids[rows]
    return all(
        np.array_equal(column.repeat(num_rows), codes[:, level])
        for level, column in enumerate(columns)
    )
