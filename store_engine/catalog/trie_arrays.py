"""The trie's level-order arrays as tensors, for everything in decoding that is not the C++ core.

Node j of depth d + 1 is entry j of `token[d]`; its children are the nodes
child_begin[d + 1][j] : child_begin[d + 1][j + 1] of the next depth. The root is node 0 of depth 0.
Nodes of one depth are in ascending order of their SID prefix, so the items below a node are a
contiguous range of the items in SID order.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from store_engine._C import ItemTrie, Snapshot
from store_engine.kernels.ragged import ragged_ranges


class TrieArrays:
    """The arrays of an `ItemTrie` on one device, each made when it is first used.

    Args:
        item_trie: The trie of the C++ core. A snapshot has no arrays and serves that core alone.
        device: Where the tensors are made.
    """

    def __init__(self, item_trie: ItemTrie | Snapshot, device: torch.device | str = "cpu") -> None:
        self.item_trie = item_trie
        self.device = torch.device(device)
        self.num_levels: int = item_trie.num_levels
        self.num_items: int = item_trie.num_items
        self.codebook_sizes: list[int] = [int(size) for size in item_trie.codebook_sizes]
        # nodes per depth, the root included
        self.level_sizes: list[int] = [1, *(int(size) for size in item_trie.level_sizes)]

    @functools.cached_property
    def child_begin(self) -> list[Tensor]:
        """Per level (num_nodes + 1,) int64: where the children of each node begin."""
        begins = (self._static.level(level)[0] for level in range(self.num_levels))
        return [self._tensor(begin) for begin in begins]

    @functools.cached_property
    def token(self) -> list[Tensor]:
        """Per level (num_children,) int64: the code of each child."""
        tokens = (self._static.level(level)[1] for level in range(self.num_levels))
        return [self._tensor(token) for token in tokens]

    @functools.cached_property
    def _leaves(self) -> tuple[Tensor, Tensor]:
        offsets, rows = self.item_trie.leaf_rows(np.arange(self.level_sizes[-1], dtype=np.int64))
        return self._tensor(offsets), self._tensor(rows)

    @property
    def rows(self) -> Tensor:
        """(num_items,) int64: catalogue rows in SID order, ascending within a leaf."""
        return self._leaves[1]

    @functools.cached_property
    def places(self) -> Tensor:
        """(num_items,) int64: where each catalogue row stands in `rows`."""
        return self.rows.argsort()

    @functools.cached_property
    def item_begin(self) -> list[Tensor]:
        """Per depth (num_nodes + 1,) int64: where the items below each node begin in `rows`."""
        return [self._leaves[0][begin] for begin in self.leaf_begin]

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Lists the children of some nodes, all in one row.

        Args:
            level: Depth of the nodes.
            nodes: (num_nodes,) int64.

        Returns:
            parent: (num_children,) int64, index into `nodes`.
            child: (num_children,) int64, node of depth level + 1, ascending within a parent.
        """
        first = self.child_begin[level][nodes]
        return ragged_ranges(first, self.child_begin[level][nodes + 1] - first)

    @functools.cached_property
    def leaf_begin(self) -> list[Tensor]:
        """Per depth (num_nodes + 1,) int64: where the leaves below each node begin."""
        begins = [torch.arange(self.level_sizes[-1] + 1, device=self.device)]
        for child_begin in reversed(self.child_begin):
            begins.append(begins[-1][child_begin])
        return begins[::-1]

    def unique_leaves(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the SID below each node where there is only one.

        Args:
            depth: Of the nodes, at most num_levels.
            nodes: int64 of any shape; -1 stands for none.

        Returns:
            leaves: int64 of that shape, -1 where there are several or none.
            tokens: The same, the last code of each leaf's SID.
        """
        begin = self.leaf_begin[depth]
        node = nodes.clamp(min=0)
        leaves = begin[node]
        is_one = (nodes >= 0) & (begin[node + 1] - leaves == 1)
        return leaves.masked_fill(~is_one, -1), self.token[-1][leaves].masked_fill(~is_one, -1)

    @functools.cached_property
    def _child_keys(self) -> list[Tensor]:
        """Per level (num_children,) int64: parent * codebook_size + code, ascending."""
        keys = []
        for level, size in enumerate(self.codebook_sizes):
            nodes = torch.arange(self.level_sizes[level], device=self.device)
            keys.append(self.children(level, nodes)[0] * size + self.token[level])
        return keys

    def find(self, codes: Tensor) -> Tensor:
        """Finds the node of each SID prefix.

        Args:
            codes: (num_prefixes, depth) int64.

        Returns:
            (num_prefixes,) int64 nodes of that depth, -1 where no item has the prefix.
        """
        nodes = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        for level, code in enumerate(codes.unbind(1)):
            keys, size = self._child_keys[level], self.codebook_sizes[level]
            wanted = nodes * size + code
            child = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            is_found = (nodes >= 0) & (code >= 0) & (code < size) & (keys[child] == wanted)
            nodes = child.masked_fill(~is_found, -1)
        return nodes

    @property
    def _static(self) -> ItemTrie:
        if not isinstance(self.item_trie, ItemTrie):
            raise TypeError("a snapshot has no arrays; see CatalogView.rebuilt")
        return self.item_trie

    def _tensor(self, array: np.ndarray) -> Tensor:
        # a copy: the views of the core are read-only, which PyTorch does not know of
        return torch.tensor(np.asarray(array, dtype=np.int64), device=self.device)
