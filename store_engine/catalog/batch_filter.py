"""Which items each request of a batch may be given, for every backend of the beam step.

One filter has two forms. The C++ core's (`core`) keeps sets and exclusions apart. PyTorch and the
Triton kernel read one bit per item, in SID order (`bits`): the items below a node are a range of
these, so a node is alive iff more allowed items stand before the range's end than its beginning.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemFilter, RowSet
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.kernels.trie_topk import ItemBits, pack_items, word_ranks


class BatchFilter:
    """The filter of one batch; immutable.

    Args:
        trie: The catalogue.
        allow: Per request the rows it may be given; None allows everything.
        exclude: Per request the rows it may not be given, in any order, repeats allowed.
    """

    def __init__(
        self,
        trie: TrieArrays,
        allow: Sequence[RowSet | None],
        exclude: Sequence[NDArray[np.int64]],
    ) -> None:
        self._trie, self._allow = trie, allow
        self._num_excluded = [len(rows) for rows in exclude]
        offsets = np.cumsum([0, *self._num_excluded], dtype=np.int64)
        self._excluded = np.concatenate([np.zeros(0, np.int64), *exclude])
        self.core = ItemFilter(
            trie.item_trie, len(exclude), allow=allow, exclude=(offsets, self._excluded)
        )

    def is_alive(self, depth: int, request: Tensor, nodes: Tensor) -> Tensor:
        """Whether a request may be given an item below a node.

        Args:
            depth: Of the nodes, at least 1.
            request: int64 of any shape.
            nodes: int64, broadcast with `request`.

        Returns:
            bool of the common shape.
        """
        return self.bits(depth).is_alive(request, nodes)

    def unique_leaves(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Like `TrieArrays.unique_leaves`, of what each request may be given.

        Args:
            depth: Of the nodes.
            nodes: (batch, width) int64; -1 stands for none.
        """
        trie, leaves = self._trie, torch.full_like(nodes, -1).flatten()
        beam = (nodes.flatten() >= 0).nonzero()[:, 0]
        node = nodes.flatten()[beam]
        for level in range(depth, trie.num_levels):
            parent, child = trie.children(level, node)
            beam = beam[parent]
            is_alive = self.is_alive(level + 1, beam // nodes.shape[1], child)
            beam, child = beam[is_alive], child[is_alive]
            is_only = beam.bincount(minlength=len(leaves))[beam] == 1
            beam, node = beam[is_only], child[is_only]
        leaves[beam] = node
        tokens = trie.token[-1][leaves.clamp(min=0)].masked_fill(leaves < 0, -1)
        return leaves.view_as(nodes), tokens.view_as(nodes)

    def is_allowed(self) -> Tensor:
        """(batch, num_items) bool, in SID order."""
        item = torch.arange(self._trie.num_items, device=self._trie.device)
        bits = self._words[:, item >> 5] >> (item & 31).int()
        return (bits & 1).bool()

    def bits(self, depth: int) -> ItemBits:
        """The form that PyTorch and the Triton kernel read, on the nodes of a depth."""
        return ItemBits(self._trie.item_begin[depth], self._words, self._ranks)

    @functools.cached_property
    def _words(self) -> Tensor:
        """(batch, num_words) int32: the bits of each request's set without those it excludes."""
        trie, sets = self._trie, list(dict.fromkeys(self._allow))
        is_allowed = torch.ones(len(sets), trie.num_items, dtype=torch.bool, device=trie.device)
        for i, row_set in enumerate(sets):
            if row_set is not None:
                is_allowed[i] = False
                is_allowed[i, trie.places[torch.from_numpy(row_set.rows()).to(trie.device)]] = True
        set_id = torch.tensor([sets.index(one) for one in self._allow], device=trie.device)
        words = pack_items(is_allowed)[set_id]
        num_excluded = torch.tensor(self._num_excluded)
        request = torch.arange(len(self._allow)).repeat_interleave(num_excluded).to(trie.device)
        place = trie.places[torch.from_numpy(self._excluded).to(trie.device)]
        bit = (request * (32 * words.shape[1]) + place).unique()  # a repeat counts once
        mask = torch.zeros(words.numel(), dtype=torch.int64, device=trie.device)
        mask.index_add_(0, bit >> 5, torch.ones_like(bit) << (bit & 31))
        return words & ~mask.int().view_as(words)

    @functools.cached_property
    def _ranks(self) -> Tensor:
        return word_ranks(self._words)
