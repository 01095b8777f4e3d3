"""The trie as the searches see it: the core's own object, or its arrays as tensors.

The nodes of level l stand for SID prefixes of l codes; the root is node 0 of level 0. Node j of
level l + 1 is entry j of `token[l]`; its children are the nodes
child_begin[l + 1][j] : child_begin[l + 1][j + 1] of the next level. The nodes of one level ascend
with the SID prefix, so the items below a node are a contiguous range of the items in SID order; an
item's position in this order is its rank.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine._C import ItemTrie, Snapshot
from store_engine.kernels.ragged import ragged_ranges


class SearchTrie:
    """A trie of the C++ core and its sizes, which is all that the core's own search needs.

    Args:
        item_trie: The trie, or a snapshot of a live one.
    """

    def __init__(self, item_trie: ItemTrie | Snapshot) -> None:
        self.item_trie = item_trie
        self.num_levels: int = item_trie.num_levels
        self.num_items: int = item_trie.num_items
        self.codebook_sizes: list[int] = [int(size) for size in item_trie.codebook_sizes]
        # nodes per level, the root included
        self.level_sizes: list[int] = [1, *(int(size) for size in item_trie.level_sizes)]


class TrieArrays(SearchTrie):
    """A trie whose arrays are tensors on one device, each made when it is first used.

    Args:
        item_trie: The trie of the C++ core.
        device: Where the tensors are made.
    """

    item_trie: ItemTrie

    def __init__(self, item_trie: ItemTrie, device: torch.device | str = "cpu") -> None:
        if not isinstance(item_trie, ItemTrie):
            raise TypeError(f"only an ItemTrie has arrays, got {type(item_trie).__name__}")
        super().__init__(item_trie)
        self.device = torch.device(device)

    @functools.cached_property
    def child_begin(self) -> list[Tensor]:
        """Per level (num_nodes + 1,) int64: where the children of each node begin."""
        return [self._tensor(begin) for begin in self._child_begin]

    @functools.cached_property
    def _child_begin(self) -> list[NDArray[np.integer]]:
        """The same on the host."""
        return [self.item_trie.level(level)[0] for level in range(self.num_levels)]

    @functools.cached_property
    def token(self) -> list[Tensor]:
        """Per level (num_children,) int64: the code of each child."""
        tokens = (self.item_trie.level(level)[1] for level in range(self.num_levels))
        return [self._tensor(token) for token in tokens]

    @functools.cached_property
    def _leaves(self) -> tuple[Tensor, Tensor]:
        offsets, rows = self.item_trie.leaf_rows(np.arange(self.level_sizes[-1], dtype=np.int64))
        return self._tensor(offsets), self._tensor(rows)

    @property
    def rows(self) -> Tensor:
        """(num_items,) int64: the trie's rows in SID order, ascending within a leaf."""
        return self._leaves[1]

    @functools.cached_property
    def ranks(self) -> Tensor:
        """(num_items,) int64: the rank of each row of the trie, its position in `rows`."""
        return torch.empty_like(self.rows).scatter_(
            0, self.rows, torch.arange(len(self.rows), device=self.device)
        )

    @functools.cached_property
    def item_begin(self) -> list[Tensor]:
        """Per level (num_nodes + 1,) int64: the rank of the first item below each node."""
        return [self._leaves[0][begin] for begin in self.leaf_begin]

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Lists the children of some nodes, all in one row.

        Args:
            level: The nodes' level, less than num_levels.
            nodes: (num_nodes,) int64.

        Returns:
            parent: (num_children,) int64, index into `nodes`.
            child: (num_children,) int64, node of level + 1, ascending within a parent.
        """
        first = self.child_begin[level][nodes]
        return ragged_ranges(first, self.child_begin[level][nodes + 1] - first)

    def children_between(self, level: int, begin: int, end: int) -> tuple[Tensor, slice]:
        """Finds the children of nodes that follow each other; does not wait for the device.

        Args:
            level: The nodes' level, less than num_levels.
            begin: The first of the nodes.
            end: One past the last of them.

        Returns:
            parent: (num_children,) int64, each child's, less `begin`.
            child: The nodes of level + 1, which follow each other too.
        """
        first, last = (int(self._child_begin[level][node]) for node in (begin, end))
        num_below = self.child_begin[level][begin : end + 1].diff()
        parent = torch.arange(end - begin, device=self.device)
        parent = parent.repeat_interleave(num_below, output_size=last - first)
        return parent, slice(first, last)

    @functools.cached_property
    def leaf_begin(self) -> list[Tensor]:
        """Per level (num_nodes + 1,) int64: where the leaves below each node begin."""
        begins = [torch.arange(self.level_sizes[-1] + 1, device=self.device)]
        for child_begin in reversed(self.child_begin):
            begins.append(begins[-1][child_begin])
        return begins[::-1]

    def unique_leaves(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the SID below each node where there is only one.

        Args:
            level: The nodes' level, at most num_levels.
            nodes: int64 of any shape; -1 stands for none.

        Returns:
            leaves: int64 of that shape, -1 where there are several or none.
            tokens: int64 of that shape, the last code of each leaf's SID; -1 likewise.
        """
        begin = self.leaf_begin[level]
        node = nodes.clamp(min=0)
        leaves = begin[node]
        is_one = (nodes >= 0) & (begin[node + 1] - leaves == 1)
        return leaves.masked_fill(~is_one, -1), self.token[-1][leaves].masked_fill(~is_one, -1)

    @functools.cached_property
    def _child_keys(self) -> list[Tensor]:
        """Per level (num_children,) int64: parent * codebook_size + code, ascending."""
        keys = []
        for level, size in enumerate(self.codebook_sizes):
            parent, _ = self.children_between(level, 0, self.level_sizes[level])
            keys.append(parent * size + self.token[level])
        return keys

    def find(self, codes: Tensor) -> Tensor:
        """Finds the node of each SID prefix.

        Args:
            codes: (num_prefixes, level) int64.

        Returns:
            (num_prefixes,) int64 nodes of that level, -1 where no item has the prefix.
        """
        nodes = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        for level, code in enumerate(codes.unbind(1)):
            keys, size = self._child_keys[level], self.codebook_sizes[level]
            wanted = nodes * size + code
            child = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            is_found = (nodes >= 0) & (code >= 0) & (code < size) & (keys[child] == wanted)
            nodes = child.masked_fill(~is_found, -1)
        return nodes

    def _tensor(self, array: np.ndarray) -> Tensor:
        # a copy: the views of the core are read-only, which PyTorch does not know of
        return torch.tensor(np.asarray(array, dtype=np.int64), device=self.device)


class SnapshotTrie(SearchTrie):
    """A snapshot of a live trie, which the core alone can search as it is.

    Args:
        item_trie: The snapshot; its item ids are catalogue rows.
        device: Where the arrays of `compacted` are made.
    """

    item_trie: Snapshot

    def __init__(self, item_trie: Snapshot, device: torch.device | str = "cpu") -> None:
        super().__init__(item_trie)
        self._device = device

    @functools.cached_property
    def compacted(self) -> tuple[TrieArrays, NDArray[np.int64]]:
        """A trie of the same items in row order, and their catalogue rows, ascending.

        O(num_items * log(num_items)) when it is first asked for.
        """
        trie, rows = self.item_trie.compacted()
        return TrieArrays(trie, self._device), rows


def require_arrays(trie: SearchTrie) -> TrieArrays:
    """Returns a trie as one that has arrays.

    Raises:
        TypeError: The trie is a snapshot.
    """
    if not isinstance(trie, TrieArrays):
        raise TypeError("only the C++ core searches a snapshot; take CatalogView.compacted")
    return trie
