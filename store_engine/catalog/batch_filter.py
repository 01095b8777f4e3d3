"""Which items each request of a batch may be given, for every backend of the beam step.

The C++ core has its own form of it (`_C.ItemFilter`). PyTorch counts instead: the items below a
node are a range of the items in SID order, so a node is alive iff the range holds more allowed
items than excluded ones: two look-ups in a running count, and two searches among the excluded.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemFilter, RowSet
from store_engine.catalog.trie_arrays import TrieArrays
from store_engine.kernels import trie_topk


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
            request: (n,) int64.
            nodes: (n,) int64.

        Returns:
            (n,) bool.
        """
        begin = self._trie.item_begin[depth]
        return self._count(request, begin[nodes + 1]) > self._count(request, begin[nodes])

    def only_leaves(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Like `TrieArrays.only_leaves`, of what each request may be given.

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
        trie = self._trie
        request = torch.arange(len(self._allow), device=trie.device)[:, None]
        place = torch.arange(trie.num_items + 1, device=trie.device)
        return self._count(request, place).diff(dim=1) > 0

    def bitmask(self, depth: int) -> trie_topk.ItemFilter:
        """The same for the Triton kernel, on the nodes of a depth."""
        return self._bitmask._replace(item_begin=self._trie.item_begin[depth])

    @functools.cached_property
    def _bitmask(self) -> trie_topk.ItemFilter:
        return trie_topk.item_filter(self.is_allowed(), self._trie.item_begin[-1])

    def _count(self, request: Tensor, place: Tensor) -> Tensor:
        """Allowed items before `place` in SID order."""
        set_id, before, excluded = self._counts
        key = request * (self._trie.num_items + 1) + place
        return before[set_id[request], place] - torch.searchsorted(excluded, key)

    @functools.cached_property
    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each request's set; per set the items before each place; the excluded places' keys."""
        trie, sets = self._trie, list(dict.fromkeys(self._allow))
        set_id = torch.tensor([sets.index(one) for one in self._allow], device=trie.device)
        is_allowed = torch.ones(len(sets), trie.num_items, dtype=torch.bool, device=trie.device)
        for i, row_set in enumerate(sets):
            if row_set is not None:
                is_allowed[i] = False
                is_allowed[i, trie.places[torch.from_numpy(row_set.rows()).to(trie.device)]] = True
        num_excluded = torch.tensor(self._num_excluded)
        request = torch.arange(len(self._allow)).repeat_interleave(num_excluded).to(trie.device)
        place = trie.places[torch.from_numpy(self._excluded).to(trie.device)]
        is_loss = is_allowed[set_id[request], place]  # what is not allowed anyway is counted once
        excluded = (request * (trie.num_items + 1) + place)[is_loss].unique()
        return set_id, F.pad(is_allowed.cumsum(1), (1, 0)), excluded
