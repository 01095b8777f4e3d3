"""The beam tree of a search of fixed shapes: a block of the cache's slots for each level.

A block holds the beams of its level, then a column for each item that is named: an item's prefix
stands in the same column of every block, so its way back is known before the search.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store_engine.kernels.tree_attention import BeamTree
from store_engine.kernels.trie_select import Backpointers


class StaticTree:
    """Where the blocks are.

    Args:
        beam_widths: Beams of each level that is run.
        num_named: Items besides.
        first_slots: (batch, 1) int32 on the CPU, the tree's first slot in the flattened cache of a
            layer, of each request.
        device: Where the tensors are.

    Attributes:
        widths: Columns of each block.
        slots: Of each block, (batch * width,) int32 in the flattened cache of a layer.
    """

    def __init__(
        self, beam_widths: list[int], num_named: int, first_slots: Tensor, device: torch.device
    ) -> None:
        self.widths = block_widths(beam_widths, num_named)
        self._begins = np.cumsum([0, *self.widths], dtype=np.int64).tolist()
        num_slots = self._begins.pop()
        every = (first_slots + torch.arange(num_slots, dtype=torch.int32)).to(device)
        blocks = every.split(self.widths, 1) if self.widths else ()
        self.slots = [block.flatten().contiguous() for block in blocks]
        parents = torch.full((len(first_slots), num_slots), -1, dtype=torch.int32)
        ends = [b + width for b, width in zip(self._begins, self.widths, strict=True)]
        for before, end in pairwise(ends):
            parents[:, end - num_named : end] = torch.arange(before - num_named, before)
        self._parents = parents.to(device)

    def positions(self, lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        """Returns the positions of all blocks' tokens, block behind block.

        Args:
            lengths: (batch,), the tokens of each context.
        """
        blocks = [np.repeat(lengths + depth, width) for depth, width in enumerate(self.widths)]
        return np.concatenate([lengths[:0], *blocks])

    def back(self, level: int) -> Backpointers | None:
        """Returns where the ways back of a level's beams are written; None: nowhere."""
        if not 0 < level < len(self.widths):  # the first block's parent is the context
            return None
        return Backpointers(self._parents, self._begins[level], self._begins[level - 1])

    def block(self, level: int) -> BeamTree:
        """Returns the tree as the block of a level sees it."""
        return BeamTree(self._parents, self._begins[level], level + 1)


def block_widths(beam_widths: list[int], num_named: int) -> list[int]:
    """Returns the columns of each block."""
    return [width + num_named for width in beam_widths]
