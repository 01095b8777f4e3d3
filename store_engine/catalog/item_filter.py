"""Which items each request of a batch may be given, for every backend of the search.

One filter has two forms. The C++ core's (`core`) keeps sets and exclusions apart. PyTorch and the
Triton kernel read one bit per item, by rank (`bits`; see `trie_arrays`): the items below a node are
a range of ranks, so a node is alive iff more allowed items stand before the range's end than before
its beginning.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine import _C
from store_engine.catalog.trie_arrays import SearchTrie, TrieArrays, require_arrays
from store_engine.kernels.trie_topk import ItemBits, pack_items, word_ranks


class ItemFilter:
    """The filter of one batch; immutable.

    Args:
        trie: The items that there are. All methods need a `TrieArrays`; a snapshot serves `core`.
        allow: Per request the trie's rows that it may be given; None allows everything.
        exclude: Per request the trie's rows that it may not be given, in any order, repeats
            allowed.

    Attributes:
        core: The filter as the C++ core takes it.
    """

    def __init__(
        self,
        trie: SearchTrie,
        allow: Sequence[_C.RowSet | None],
        exclude: Sequence[NDArray[np.int64]],
    ) -> None:
        self._trie, self._allow = trie, list(allow)
        self._offsets = np.cumsum([0, *(len(rows) for rows in exclude)], dtype=np.int64)
        self._excluded = np.concatenate([np.zeros(0, np.int64), *exclude])
        self.core = _C.ItemFilter(
            trie.item_trie, len(exclude), allow=allow, exclude=(self._offsets, self._excluded)
        )

    def is_alive(self, level: int, request: Tensor, nodes: Tensor) -> Tensor:
        """Tells whether a request may be given an item below a node.

        Args:
            level: The nodes' level, at least 1.
            request: int64, position of the request in the batch, of a shape that broadcasts.
            nodes: int64.

        Returns:
            bool, of the shape that `request` and `nodes` broadcast to.
        """
        return self.bits(level).is_alive(request, nodes)

    def unique_leaves(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the SID below each node where the request may be given only one.

        Args:
            level: The nodes' level.
            nodes: (batch, width) int64; -1 stands for none.

        Returns:
            leaves: (batch, width) int64, -1 where there are several or none.
            tokens: (batch, width) int64, the last code of each leaf's SID; -1 likewise.
        """
        trie, width = self._arrays, nodes.shape[1]
        leaves = torch.full_like(nodes, -1).flatten()
        # walk down all nodes at once, and drop a beam at the level where it has a second child
        beam = (nodes.flatten() >= 0).nonzero()[:, 0]
        node = nodes.flatten()[beam]
        for child_level in range(level + 1, trie.num_levels + 1):
            parent, child = trie.children(child_level - 1, node)
            beam = beam[parent]
            is_alive = self.is_alive(child_level, beam // width, child)
            beam, child = beam[is_alive], child[is_alive]
            is_only = beam.bincount(minlength=len(leaves))[beam] == 1
            beam, node = beam[is_only], child[is_only]
        leaves[beam] = node
        tokens = trie.token[-1][leaves.clamp(min=0)].masked_fill(leaves < 0, -1)
        return leaves.view_as(nodes), tokens.view_as(nodes)

    def is_allowed(self) -> Tensor:
        """Returns (batch, num_items) bool by rank: whether the request may be given the item."""
        rank = torch.arange(self._arrays.num_items, device=self._arrays.device)
        bits = self._words[:, rank >> 5] >> (rank & 31).int()
        return (bits & 1).bool()

    def bits(self, level: int) -> ItemBits:
        """Returns the form that PyTorch and the Triton kernel read.

        Args:
            level: Level of the nodes that are candidates.
        """
        return ItemBits(self._arrays.item_begin[level], self._words, self._word_ranks)

    @property
    def _arrays(self) -> TrieArrays:
        return require_arrays(self._trie)

    @functools.cached_property
    def _words(self) -> Tensor:
        """(batch, num_words) int32: the bits of each request's set without those it excludes."""
        trie, sets = self._arrays, list(dict.fromkeys(self._allow))
        device = trie.device

        def ranks_of(rows: NDArray[np.int64]) -> Tensor:
            return trie.ranks[torch.from_numpy(rows).to(device)]

        is_allowed = torch.ones(len(sets), trie.num_items, dtype=torch.bool, device=device)
        for i, row_set in enumerate(sets):
            if row_set is not None:
                is_allowed[i] = False
                is_allowed[i, ranks_of(row_set.rows())] = True
        set_id = torch.tensor([sets.index(row_set) for row_set in self._allow], device=device)
        words = pack_items(is_allowed)[set_id]

        num_excluded = torch.from_numpy(np.diff(self._offsets))
        request = torch.arange(len(self._allow)).repeat_interleave(num_excluded).to(device)
        bit = request * (32 * words.shape[1]) + ranks_of(self._excluded)
        bit = bit.unique()  # an item that is excluded twice has one bit
        mask = torch.zeros(words.numel(), dtype=torch.int64, device=device)
        mask.index_add_(0, bit >> 5, torch.ones_like(bit) << (bit & 31))
        return words & ~mask.int().view_as(words)

    @functools.cached_property
    def _word_ranks(self) -> Tensor:
        return word_ranks(self._words)
