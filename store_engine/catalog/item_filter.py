"""Which items each request of a batch may be given, for every backend of the search.

The C++ core has its own form. PyTorch counts instead: the items below a node are a range of ranks
(see `trie_arrays`), so a node is alive iff the range holds more allowed than excluded items. Both
numbers are differences of running counts over the ranks: a look-up for the allowed items, a binary
search for the excluded ones. The Triton kernel reads a bitmask over the ranks.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine import _C
from store_engine.catalog.trie_arrays import SearchTrie, TrieArrays, require_arrays
from store_engine.kernels import trie_topk


class _Counts(NamedTuple):
    """What the filter looks up in PyTorch.

    The key of a request and a rank is request * (num_items + 1) + rank.
    Requests that share an allowed set share its running count.
    """

    set_id: Tensor  # (batch,) int64, which allowed set each request has
    num_allowed_before: Tensor  # (num_sets, num_items + 1) int64, by rank
    excluded_keys: Tensor  # (num_excluded,) int64 ascending, of allowed but excluded items


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
        """Whether a request may be given an item below a node.

        Args:
            level: The nodes' level, at least 1.
            request: int64, position of the request in the batch, of a shape that broadcasts.
            nodes: int64.

        Returns:
            bool, of the shape that `request` and `nodes` broadcast to.
        """
        first_rank = self._arrays.item_begin[level]
        end, begin = first_rank[nodes + 1], first_rank[nodes]
        return self._num_left_before(request, end) > self._num_left_before(request, begin)

    def only_leaves(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
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
        """(batch, num_items) bool by rank: whether the request may be given the item."""
        request = torch.arange(len(self._allow), device=self._arrays.device)[:, None]
        rank = torch.arange(self._arrays.num_items + 1, device=self._arrays.device)
        return self._num_left_before(request, rank).diff(dim=1) > 0

    def bitmask(self, level: int) -> trie_topk.ItemFilter:
        """The filter as the Triton kernel takes it.

        Args:
            level: Level of the nodes that are candidates.
        """
        return self._bitmask._replace(item_begin=self._arrays.item_begin[level])

    @functools.cached_property
    def _bitmask(self) -> trie_topk.ItemFilter:
        return trie_topk.item_filter(self.is_allowed(), self._arrays.item_begin[-1])

    def _num_left_before(self, request: Tensor, rank: Tensor) -> Tensor:
        """How many items of lower rank a request may be given, but for a constant per request.

        The constant is the number of items that earlier requests exclude; differences between two
        ranks are free of it.
        """
        set_id, num_allowed_before, excluded_keys = self._counts
        key = request * (self._arrays.num_items + 1) + rank
        num_excluded_before = torch.searchsorted(excluded_keys, key)
        return num_allowed_before[set_id[request], rank] - num_excluded_before

    @property
    def _arrays(self) -> TrieArrays:
        return require_arrays(self._trie)

    @functools.cached_property
    def _counts(self) -> _Counts:
        return _count(self._arrays, self._allow, self._offsets, self._excluded)


def _count(
    trie: TrieArrays,
    allow: list[_C.RowSet | None],
    offsets: NDArray[np.int64],
    excluded: NDArray[np.int64],
) -> _Counts:
    """Counts the allowed items by rank, and sorts the excluded ones."""
    device, num_items = trie.device, trie.num_items

    def ranks_of(rows: NDArray[np.int64]) -> Tensor:
        return trie.ranks[torch.from_numpy(rows).to(device)]

    sets = list(dict.fromkeys(allow))
    set_id = torch.tensor([sets.index(row_set) for row_set in allow], device=device)
    is_allowed = torch.ones(len(sets), num_items, dtype=torch.bool, device=device)
    for i, row_set in enumerate(sets):
        if row_set is not None:
            is_allowed[i] = False
            is_allowed[i, ranks_of(row_set.rows())] = True

    num_excluded = torch.from_numpy(np.diff(offsets))
    request = torch.arange(len(allow)).repeat_interleave(num_excluded).to(device)
    rank = ranks_of(excluded)
    # an item that is not allowed anyway, or is excluded twice, must be subtracted once
    is_subtracted = is_allowed[set_id[request], rank]
    keys = (request * (num_items + 1) + rank)[is_subtracted].unique()
    return _Counts(set_id, F.pad(is_allowed.cumsum(1), (1, 0)), keys)
